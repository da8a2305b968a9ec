"""Size, work and memory of the named presets, counted on the meta device: nothing is computed, no weight is made.

    python docs/presets.py          # the table of docs/presets.md

* parameters: all weights, a tied one once; of the vision tower; of the text decoder.
* image: operations (a multiplication and an addition are two) of encoding one picture, with the keys and values that
  all its rows read.
* token: operations of one generated token after 31 others, the vocabulary's projection included.
* training: what autograd keeps for the backward pass of one picture with a caption of 32 tokens, in fp32, for the
  frozen parts too as far as autograd keeps it; no gradient checkpointing.
* cache: keys and values in bf16, once per picture (for all of its rows and beams) and per token of a row.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mm import MMConfig, MMForConditionalGeneration
from mm.configuration.presets import PRESETS

TOKENS = 32
COLUMNS = (
    "preset", "parameters", "vision", "text", "pixels", "image tokens", "image", "token", "training",
    "cache per image", "cache per token",
)  # fmt: skip


def build(name: str) -> Any:
    """The preset's generator without weights; eager attention, so that every product is counted."""
    config = MMConfig.preset(name, check_inputs=False)
    with torch.device("meta"):
        return MMForConditionalGeneration._from_config(config, attn_implementation="eager")


def numbers(module: torch.nn.Module) -> int:
    """How many weights are saved, the frozen statistics of a batch norm among them, a tied weight once."""
    saved = module.state_dict().keys()
    tensors = [*module.parameters(), *(buffer for name, buffer in module.named_buffers() if name in saved)]
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def picture(model) -> torch.Tensor:
    size = model.config.vision_config.image_size
    return torch.empty(1, 3, size, size, device="meta")


def count(function, *modules: str) -> int:
    """Operations of a call, or of the modules in it whose names end so."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        function()
    if not modules:
        return counter.get_total_flops()
    by_module = {name: sum(of.values()) for name, of in counter.get_flop_counts().items()}
    return sum(flops for name, flops in by_module.items() if name.endswith(modules))


def generation(model) -> tuple[int, int, int, int]:
    """(operations per image, per token, bytes per image, per token) of writing TOKENS tokens about one picture."""
    token, state = torch.zeros(1, 1, dtype=torch.long, device="meta"), {}

    def encode():
        state["encoder_outputs"] = model.encode_context(pixel_values=picture(model))

    def step():
        state["past_key_values"] = model(input_ids=token, use_cache=True, **state).past_key_values
        state.pop("encoder_outputs", None)

    model.eval()
    per_image = count(encode) + count(step, "cross_attn.k_proj", "cross_attn.v_proj")
    with torch.no_grad():
        for _ in range(TOKENS - 2):
            step()
    per_token = count(step)
    cache = state["past_key_values"]
    held = [sum(layer.keys.numel() + layer.values.numel() for layer in half.layers) * torch.bfloat16.itemsize
            for half in (cache.cross_attention_cache, cache.self_attention_cache)]  # fmt: skip
    return per_image, per_token, held[0], held[1] // TOKENS


def training_bytes(model) -> int:
    """Bytes that autograd keeps for the backward pass of one sample, weights not counted."""
    own = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no later storage gets its number
        return tensor

    ids = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, pixel_values=picture(model), labels=ids).loss.backward()
    return sum(storage.nbytes() for storage in kept.values())


def row(name: str) -> tuple[str, ...]:
    model = build(name)
    base = model.model
    tokens = base.encode_context(pixel_values=picture(model)).last_hidden_state.shape[1]
    per_image, per_token, image_bytes, token_bytes = generation(model)
    millions = [f"{numbers(part) / 1e6:.1f} M" for part in (model, base.vision_tower, base.language_model)]
    size = model.config.vision_config.image_size
    return (
        name, *millions, f"{size} x {size}", str(tokens),
        f"{per_image / 1e9:.1f} GFLOP", f"{per_token / 1e6:.0f} MFLOP", f"{training_bytes(model) / 2**20:.0f} MiB",
        f"{image_bytes / 2**10:.0f} KiB", f"{token_bytes / 2**10:.0f} KiB",
    )  # fmt: skip


def lines() -> Iterator[str]:
    """The table in Markdown."""
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|---" * len(COLUMNS) + "|"
    for name in PRESETS:
        yield "| " + " | ".join(row(name)) + " |"


if __name__ == "__main__":
    print(*lines(), sep="\n")
