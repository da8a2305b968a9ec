"""What fewer bits cost the packaged captioner: the table of docs/deployment.md.

    make quantization        # in an environment of torchao, next to the usual one

Drawings of Twemoji, the development style, with names that mm-tiny knows, through its processor and greedy generate().
`equal` is the share of captions equal to float32's, EM exact match with the true name; the errors are |difference| of
logits along float32's captions, over the standard deviation of all logits; `MB` is of weights, `context` of the keys
and values of one picture in kB.
"""

# torchao is no part of the development environment, and its tensors say what they are made of.

import argparse
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]
from transformers import TorchAoConfig
from transformers.cache_utils import DynamicCache

from mm import MMCache, MMForConditionalGeneration, MMProcessor
from mm.cli.caption import PACKAGED_MODEL
from mm.evaluation.captions import exact_match
from mm.modeling_mm.core.int8_cache import Int8Context, Int8Layer
from mm.recipes.emoji import DEV_VENDOR, load_items, render, split_of

BATCH = 64


def load(**options: Any) -> MMForConditionalGeneration:
    return MMForConditionalGeneration.from_pretrained(PACKAGED_MODEL, **options).eval()


def quantized(config: Any) -> MMForConditionalGeneration:
    """Through Transformers, as a user does it; the convolutions of the vision tower do not change."""
    return load(dtype="float32", quantization_config=TorchAoConfig(config))


MODELS: dict[str, Callable[[], MMForConditionalGeneration]] = {
    "float32": lambda: load(dtype="float32"),
    "float32, context int8": lambda: load(dtype="float32"),
    "bfloat16": lambda: load(dtype="bfloat16"),
    "int8 weights": lambda: quantized(Int8WeightOnlyConfig()),
    "int8 weights and activations": lambda: quantized(Int8DynamicActivationInt8WeightConfig()),
}


def new_cache(model: MMForConditionalGeneration, name: str) -> MMCache:
    held = Int8Context() if name.endswith("context int8") else DynamicCache()
    return MMCache(DynamicCache(config=model.config.text_config), held)


def weight_bytes(model: torch.nn.Module) -> int:
    """A tied weight once; an int8 tensor of torchao by its inner tensors."""
    total, seen = 0, set()
    for tensor in (*model.parameters(), *model.buffers()):
        names, _ = tensor.__tensor_flatten__() if hasattr(tensor, "__tensor_flatten__") else (None, None)
        for part in [tensor] if names is None else [getattr(tensor, name) for name in names]:
            if id(part) not in seen:
                total += part.numel() * part.element_size()
            seen.add(id(part))
    return total


def context_bytes(cache: MMCache) -> int:
    layers: list[Any] = cache.cross_attention_cache.layers
    total = 0
    for layer in layers:
        one = layer.keys
        total += layer.num_bytes() if isinstance(layer, Int8Layer) else 2 * one.numel() * one.element_size()
    return total // layers[0].keys.shape[0]


@torch.no_grad()
def run(model, name: str, pixels: torch.Tensor, along: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(captions, logits along given captions or its own, bytes of a context)."""
    pixels = pixels.to(next(model.parameters()).dtype)
    ids = model.generate(pixel_values=pixels, past_key_values=new_cache(model, name), num_beams=1)
    cache = new_cache(model, name)
    given = model(pixel_values=pixels, input_ids=ids if along is None else along, past_key_values=cache)
    return ids, given.logits.float(), context_bytes(cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, help="the first so many; default: all")
    number = parser.parse_args().pictures
    items = [item for item in load_items([DEV_VENDOR]) if split_of(item.concept) == "seen"][:number]
    processor = MMProcessor.from_pretrained(PACKAGED_MODEL)
    drawings = [render(item.svg, 256) for item in items]
    batches = [
        processor(images=drawings[start : start + BATCH], return_tensors="pt")["pixel_values"]
        for start in range(0, len(drawings), BATCH)
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "torchao"))
    print(f"{len(items)} drawings; CPU; Python {platform.python_version()}, {versions}\n")
    print("| | equal | EM | mean error | largest | weights, MB | context, kB |\n" + "|---" * 7 + "|")
    expected: list[tuple[torch.Tensor, torch.Tensor]] = []
    first: list[str] = []
    for name, build in MODELS.items():
        model = build()
        runs = [
            run(model, name, pixels, expected[place][0] if expected else None) for place, pixels in enumerate(batches)
        ]
        captions = [text for ids, *_ in runs for text in processor.batch_decode(ids, skip_special_tokens=True)]
        if not expected:
            expected, first = [(ids, logits) for ids, logits, _ in runs], captions
        spread = torch.cat([logits.flatten() for _, logits in expected]).std()
        errors = [(given - wanted).abs() for (_, given, _), (_, wanted) in zip(runs, expected, strict=True)]
        mean = torch.cat([error.flatten() for error in errors]).mean() / spread
        largest = max(float(error.max()) for error in errors) / spread
        equal = sum(one == other for one, other in zip(captions, first, strict=True)) / len(captions)
        match = exact_match(captions, [item.label for item in items]).value
        print(
            f"| {name} | {equal:.3f} | {match:.3f} | {mean:.4f} | {largest:.2f} | {weight_bytes(model) / 1e6:.1f} | "
            f"{runs[0][2] / 1e3:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
