"""The cross-attention calls that gpu_cross_attention.py measures, the bytes and operations that each cannot do
without, and the time that a GPU would need for them by its data sheet.

B contexts (pictures), R rows of a context (beams, questions), T tokens of a row, H query heads, Hkv key heads, S keys,
D head width.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Setting:
    """One layer's call in a model."""

    name: str
    contexts: int
    rows: int
    tokens: int
    heads: int
    kv_heads: int
    keys: int
    head_dim: int
    beams: bool = False  # the rows are beams: generate() gathers the keys and values of the expanded paths every step
    backward: bool = False

    @property
    def queries(self) -> int:
        """Of a context: its rows are just more queries."""
        return self.rows * self.tokens

    @property
    def shape(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        return f"B{self.contexts} R{self.rows} T{self.tokens} H{heads} S{self.keys} D{self.head_dim}"


SETTINGS = (
    Setting("BLIP captions, 5 beams", 8, 5, 1, 12, 12, 577, 64, beams=True),
    Setting("VQA, 16 questions a picture", 4, 16, 20, 12, 12, 577, 64, backward=True),
    Setting("Mllama-like decoding, 4 beams", 1, 4, 1, 32, 8, 6404, 128, beams=True),
)
VISIBLE = ("all", "lengths", "mask")  # which keys may be seen, and in which form


def lengths_of(setting: Setting) -> list[int]:
    """Real keys of each context where some are padding: from half of them to nearly all."""
    return [setting.keys * (setting.contexts + b) // (2 * setting.contexts) for b in range(setting.contexts)]


class Cost(NamedTuple):
    """What no implementation can do without."""

    bytes: int
    flop: int


def cost(setting: Setting, visible: str, itemsize: int, direction: str) -> Cost:
    """Every real key and value, query and output once through memory; two products of every query with every real key.

    Backward: queries, outputs and their gradients in, and gradients of queries out; keys and values in, and a gradient
    of each out, of padding too; five products instead of two, as the scores are computed again. The lse, 1 / D of an
    output, is left out.
    """
    real = setting.contexts * setting.keys if visible == "all" else sum(lengths_of(setting))
    of_a_key = 2 * setting.kv_heads * setting.head_dim * itemsize
    queries = 2 * setting.contexts * setting.queries * setting.heads * setting.head_dim * itemsize
    products = 2 * setting.queries * setting.heads * setting.head_dim * real
    if direction == "forward":
        return Cost(of_a_key * real + queries, 2 * products)
    return Cost(of_a_key * (real + setting.contexts * setting.keys) + 2 * queries, 5 * products)


class Roof(NamedTuple):
    """Of a device: GB/s of its memory, and dense TFLOP/s of 16-bit products summed in fp32 (None: not known)."""

    gbps: float
    tflops: float | None
    source: str


SHEET = "data sheet"
ROOFS = {  # by torch.cuda.get_device_name(), from NVIDIA's data sheets; another GPU's memory is measured by a copy
    "NVIDIA A100-SXM4-80GB": Roof(2039, 312, SHEET),
    "NVIDIA H100 80GB HBM3": Roof(3350, 989, SHEET),
}


def shortest_us(cost: Cost, roof: Roof) -> float:
    """Microseconds that the memory or the tensor cores need for it, whichever is longer."""
    memory = cost.bytes / roof.gbps / 1e3
    return max(memory, cost.flop / roof.tflops / 1e6) if roof.tflops else memory
