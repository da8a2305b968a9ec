"""LLaVA-NeXT (1.6, Liu et al. 2024): LLaVA whose pictures are a whole and tiles of it, joined to one grid of tokens
without its padding, whose rows end with a learned vector: MM's `image_newline`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoImageProcessor, LlavaNextConfig

from ..processing.images.tiles import GridTiles
from ..weights.checkpoint import Checkpoint
from ..weights.config_table import source_config
from .family import Family, Layout, Plan
from .llava import compare_placed, made_layout, made_plan
from .processor import has_image_processor, tile_size

_ARCHITECTURE = "LlavaNextForConditionalGeneration"
_PUBLISHED = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # rows and columns of tiles


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "llava_next"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another tower or text, and for settings that MM lacks."""
    config: Any = source_config(checkpoint.config)
    tiles = {"size": config.vision_config.image_size, "resolutions": _pairs(config.image_grid_pinpoints)}
    GridTiles.of(tiles)  # raises for resolutions that are no whole tiles
    if has_image_processor(checkpoint.directory):
        images: Any = AutoImageProcessor.from_pretrained(checkpoint.directory)
        own = {"size": tile_size(images), "resolutions": _pairs(images.image_grid_pinpoints)}
        if own != tiles:
            raise ValueError(f"the model reads tiles of {tiles}, and its image processor makes {own}")
    return made_plan(checkpoint, _ARCHITECTURE, tiles, image_newline=True)


def _pairs(resolutions: Any) -> list[list[int]]:
    return [list(pair) for pair in resolutions]


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a LLaVA-NeXT; raises ValueError for another.

    The model does not know the resolutions: they are the processor's, and without one those that were published, in
    tiles of the model's size.
    """
    config = model.config
    if not config.image_newline:
        raise ValueError("image_newline=False: a LLaVA-NeXT ends the rows of its grids of tiles")
    classes = ["LlavaNextImageProcessor", "LlavaNextProcessor"]
    size = config.vision_config.image_size
    fields = {
        "image_seq_length": config.tokens_per_tile,
        "image_grid_pinpoints": [[high * size, wide * size] for high, wide in _PUBLISHED],
    }
    made = made_layout(model, LlavaNextConfig, _ARCHITECTURE, classes, **fields)
    return replace(made, beside=_resolutions)


def _resolutions(processor: Any) -> dict[str, Any]:
    tiles = None if processor is None else processor.tiles
    return {} if tiles is None else {"image_grid_pinpoints": _pairs(tiles["resolutions"])}


def compare(theirs: Any, ours: Any, given: Any) -> dict[str, Any]:
    """A picture of an odd size in the first of the resolutions."""
    size, resolutions = ours.config.vision_config.image_size, theirs.config.image_grid_pinpoints
    tiles = GridTiles.of({"size": size, "resolutions": _pairs(resolutions)})
    high, wide = tiles.resolutions[0][0], max(1, tiles.resolutions[0][1] * 3 // 4)
    best = tiles.best(high, wide)
    cut = best[0] // size, best[1] // size, high, wide
    count, rows = ours.config.tokens_per_tile, len(given.pixel_values)
    pixels = torch.stack([given.pixel_values.roll(step, -1) for step in range(1 + cut[0] * cut[1])], dim=1)
    grids = torch.tensor([[tiles.grid(cut, count)]]).expand(rows, -1, -1)
    sizes = torch.tensor([[high, wide]]).expand(rows, -1)
    return compare_placed(
        theirs, ours, given, pixels, tiles.number(cut, count), {"image_grids": grids}, image_sizes=sizes
    )


FAMILY = Family("llava_next", recognises, plan, layout, compare, decodes_by_config=True)
