"""SigLIP 2 with NaFlex (Tschannen et al. 2025, arXiv:2502.14786): pictures of any aspect.

Like SigLIP, but a picture is a rectangle of patches, to which the learned positions, of a square, are resampled
(`position_resampling="bilinear"`). Its class takes patches as rows of pixels, MM pictures on one canvas with a mask of
patches (`resize_mode="native"`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..weights.checkpoint import Checkpoint
from ..weights.config_table import source_config
from ..weights.vision_names import siglip2_restored, siglip2_settings, siglip2_table
from .family import Family, Layout, Plan, Texts, check_architecture
from .siglip import NAMES, plan_of, text_settings, vit_of
from .verify import Given, same_outputs

_ARCHITECTURE = "Siglip2Model"
_HEAD = {"pooler": "attention"}


def recognises(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    return config.get("model_type") == "siglip2"


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises ValueError for another class than the one of both towers."""
    check_architecture(checkpoint, _ARCHITECTURE)
    config = source_config(checkpoint.config)
    if not config.vision_config.vision_use_head:
        raise ValueError("vision_use_head=False: without its head a picture has no vector to compare")
    vision = siglip2_settings(config.vision_config) | _HEAD
    return plan_of(checkpoint, config.text_config, vision, siglip2_table(vision))


def layout(model: Any) -> Layout:
    """The layout of an MM model built as a SigLIP 2; raises ValueError for another."""
    vision = siglip2_restored(vit_of(model))
    settings = {"model_type": "siglip2", "vision_config": vision, "text_config": text_settings(model.config)}
    return Layout(source_config(settings), _ARCHITECTURE, NAMES, "Siglip2ImageProcessor", "Siglip2Processor")


def compare(theirs: Any, ours: Any, given: Given) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """On rectangles of several sizes, the first a square of all patches."""
    pixels, patch = given.pixel_values, ours.config.vision_config.patch_size
    rows, columns = (side // patch for side in pixels.shape[-2:])
    mask = torch.zeros(len(pixels), rows, columns, dtype=torch.bool)
    shapes = torch.tensor([[max(1, rows - 2 * n), max(1, columns - n)] for n in range(len(pixels))])
    patches = torch.zeros(len(pixels), rows * columns, patch * patch * pixels.shape[1])
    seen = torch.zeros(patches.shape[:2], dtype=torch.long)
    for n, (height, width) in enumerate(shapes.tolist()):
        mask[n, :height, :width] = True
        cut = pixels[n, :, : height * patch, : width * patch]
        cut = cut.unflatten(2, (width, patch)).unflatten(1, (height, patch)).permute(1, 3, 2, 4, 0)
        patches[n, : height * width] = cut.reshape(height * width, -1)
        seen[n, : height * width] = 1
    text = {"input_ids": given.input_ids, "attention_mask": given.attention_mask}
    there = theirs(**text, pixel_values=patches, pixel_attention_mask=seen, spatial_shapes=shapes)
    return same_outputs(ours(**text, pixel_values=pixels, pixel_attention_mask=mask), there)


FAMILY = Family("siglip2", recognises, plan, layout, compare=compare, texts=lambda config: Texts(padded=()))
