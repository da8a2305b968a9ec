"""MMImageTokenizerConfig: a picture as a grid of tokens of a finite vocabulary, and back."""

import math
from typing import Any, Literal

from transformers.activations import ACT2FN

from .base import MMBaseConfig, checked, nearest
from .settings import setting


@checked
class MMImageTokenizerConfig(MMBaseConfig):
    """A convolutional encoder, a quantizer and a decoder. Pixels are in 0..1.

    A position of the first stage holds a patch of pixels; every later stage has half as many rows and columns. The
    last stage's positions are the tokens. The defaults make 64 tokens of 4096 codes of a picture of 64 x 64 pixels.

    Sources: finite scalar quantization ("fsq"), Mentzer et al. 2023 (arXiv:2309.15505); vector quantization ("vq"),
    van den Oord et al. 2017 (arXiv:1711.00937), its codebook by moving averages as in their appendix A.1.
    """

    model_type = "mm_image_tokenizer"

    image_size: int | list[int] | tuple[int, int] = setting(
        64,
        "size of a picture in pixels, or [height, width]",
        "MMImageTokenizer",
        values="multiples of the downsampling",
    )
    num_channels: int = setting(3, "channels of a picture", "MMImageEncoder", values="> 0")
    patch_size: int | list[int] | tuple[int, int] = setting(
        4, "pixels of a position of the first stage along each side, or [down, across]", "MMImageEncoder"
    )
    widths: list[int] | tuple[int, ...] = setting(
        (96, 128), "channels of each stage, the encoder's order", "MMImageEncoder", values="each > 0"
    )
    depth: int = setting(2, "residual blocks of each stage", "MMImageEncoder", values="1..1000")
    norm_groups: int = setting(
        8, "groups of channels that are normalised together", "MMImageBlock", values="divides each width"
    )
    norm_eps: float = setting(1e-6, "added to the variance in every norm", "MMImageBlock", values="> 0")
    hidden_act: str = setting("silu", "activation", "MMImageBlock", values="a name of transformers.activations.ACT2FN")
    quantizer: Literal["fsq", "vq"] = setting(
        "fsq", "fsq rounds each number of a code by itself; vq takes the nearest learned vector", "MMImageTokenizer"
    )
    levels: list[int] | tuple[int, ...] = setting(
        (8, 8, 8, 8),
        "fsq: values that each number of a code can have; their product is the codebook",
        "FiniteScalars",
        values="each 3 or more",
    )
    num_codes: int = setting(4096, "vq: vectors of the codebook", "CodebookVectors", values="> 0")
    code_size: int = setting(8, "vq: numbers of a vector", "CodebookVectors", values="> 0")
    ema_decay: float = setting(
        0.99, "vq: how much of its moving averages the codebook keeps in a training step", "CodebookVectors",
        values="in [0, 1)",
    )  # fmt: skip
    restart_below: float = setting(
        0.5, "vq: a vector whose average use in a batch falls below starts again as an encoded position; 0: none does",
        "CodebookVectors", values=">= 0",
    )  # fmt: skip
    commitment_weight: float = setting(
        0.25, "vq: weight of the distance of encoded positions to their vectors in the loss", "MMImageTokenizer",
        values=">= 0",
    )  # fmt: skip
    l1_weight: float = setting(1.0, "weight of the mean absolute error in the loss", "MMImageTokenizer", values=">= 0")
    l2_weight: float = setting(1.0, "weight of the mean squared error in the loss", "MMImageTokenizer", values=">= 0")
    initializer_range: float = setting(
        0.02, "standard deviation of the initial vectors of vq", "MMImageTokenizer", values="> 0"
    )

    def __post_init__(self, **kwargs: Any):
        for name in ("image_size", "patch_size", "widths", "levels"):
            value = getattr(self, name)
            setattr(self, name, list(value) if isinstance(value, tuple) else value)  # as JSON has it
        super().__post_init__(**kwargs)

    @property
    def image_sides(self) -> tuple[int, int]:
        """Height and width of a picture, pixels."""
        return _pair(self.image_size)

    @property
    def pixel_range(self) -> tuple[float, float]:
        """The least and the largest value of a pixel."""
        return 0.0, 1.0

    @property
    def patch_sides(self) -> tuple[int, int]:
        """Height and width of what a position of the first stage holds, pixels."""
        return _pair(self.patch_size)

    @property
    def downsampling(self) -> tuple[int, int]:
        """Pixels between two neighbouring tokens, down and across."""
        down, across = self.patch_sides
        halved = 2 ** (len(self.widths) - 1)
        return down * halved, across * halved

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.image_sides[0] // self.downsampling[0], self.image_sides[1] // self.downsampling[1]

    @property
    def tokens_per_image(self) -> int:
        """Ids of one picture."""
        return self.grid[0] * self.grid[1]

    @property
    def codebook_size(self) -> int:
        """Ids are below this."""
        return math.prod(self.levels) if self.quantizer == "fsq" else self.num_codes

    @property
    def code_width(self) -> int:
        """Numbers of one code."""
        return len(self.levels) if self.quantizer == "fsq" else self.code_size

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.hidden_act not in ACT2FN:
            faults.append(f"hidden_act={self.hidden_act!r} is not known{nearest(self.hidden_act, ACT2FN)}")
        if not self.levels or any(level < 3 for level in self.levels):
            faults.append(f"levels={self.levels} must be at least one number, each 3 or more")
        if not self.widths or any(width < 1 or width % max(self.norm_groups, 1) for width in self.widths):
            faults.append(
                f"widths={self.widths} must be at least one number, each a multiple of norm_groups={self.norm_groups}"
            )
        if self.norm_groups < 1:
            faults.append(f"norm_groups={self.norm_groups} must be positive")
        if self.quantizer == "fsq" and self.codebook_size >= 2**31:
            faults.append(f"levels={self.levels} make {self.codebook_size} codes; at most {2**31 - 1} are possible")
        return faults + self._size_faults()

    def _size_faults(self) -> list[str]:
        for name in ("image_size", "patch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) and len(value) != 2 or min(_pair(value)) < 1:
                return [f"{name}={value} must be positive, one number or [height, width]"]
        if not self.widths:
            return []
        pairs = list(zip(self.image_sides, self.downsampling, strict=True))
        if any(side % step or side < step for side, step in pairs):
            near = [max(side // step, 1) * step for side, step in pairs]
            return [
                f"image_size={self.image_size} is not a multiple of {list(self.downsampling)}, the patch_size times 2 "
                f"for each stage after the first; use {near}"
            ]
        return []


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
