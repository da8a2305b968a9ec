"""Any tower over the items that are present: MM's own, or any vision or audio model of Transformers, called in one
way, and built from its config.

B contexts, N items per context (pictures, videos, clips), F frames; n of the items (or frames) are present; S tokens
of an item, Dv the tower's width.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig

from ...configuration.conv import MMConvConfig
from ...configuration.vision import MMVisionConfig
from ..core.base import MMPreTrainedModel
from ..core.input_checks import MediaItems, no_mask_inside
from ..core.inputs_outputs import hidden_state
from ..core.layers import masked_mean
from .vit import MMVisionModel

# Asked of every tower, whether its forward names them or not.
STATES = ("output_hidden_states", "output_attentions")


def run_tower(tower: Any, items: MediaItems, layer: int = -1, strategy: str = "full", **settings: Any) -> MediaItems:
    """Runs a tower on the items that are present: tokens (B, N[, F], S, Dv) and pooled (B, N[, F], Dv), zeros
    elsewhere.

    Args:
        items: values are the tower's main input, cast to its dtype here; a mask inside each item is bool
            (..., rows, columns) of patches, for MM's own ViT, or (..., frames) of audio, for towers that can compute
            the number of tokens from the number of frames. Ready tower output passes; without a pooled vector
            the mean of its tokens is one.
        layer: which of the tower's hidden states is read; -1: its last_hidden_state.
        strategy: "default" drops the first token.
        settings: passed on where the tower's forward has them (`interpolate_pos_encoding`, ...), and those of STATES.
    Returns: a feature map (n, C, h, w) comes as h * w tokens, row by row. pooled is the tower's own vector, or the
        mean of the real tokens of a foreign tower without one.
    Raises: ValueError for a mask that the tower cannot use, or another size than the tower's.
    """
    if items.is_ready:
        return _ready(items, tower.dtype)
    flat = flatten_present(items)
    if flat.hidden_patches is not None:
        settings["bool_masked_pos"] = flat.hidden_patches.bool()
    if flat.grids is not None:
        settings["image_grids"] = flat.grids
    accepted = inspect.signature(tower.forward).parameters
    interpolate = bool(settings.get("interpolate_pos_encoding"))
    settings = {name: value for name, value in settings.items() if name in accepted or name in STATES}
    settings |= {"return_dict": True} if layer == -1 else {"return_dict": True, "output_hidden_states": True}
    if isinstance(tower, MMPreTrainedModel):
        if flat.mask is not None:
            settings["pixel_attention_mask"], flat = flat.mask, flat._replace(mask=_token_mask(tower, flat.mask))
        output = tower(**{tower.main_input_name: flat.values.to(tower.dtype)}, **settings)
        tokens = output.last_hidden_state if layer == -1 else hidden_state(output, layer)
        seen = flat._replace(values=tokens, pooled=output.pooler_output, output=output)
    else:
        from .foreign_towers import run_foreign  # two files, which no tower of ours needs

        seen = run_foreign(tower, flat, layer, settings, interpolate)
    if strategy == "default":
        seen = seen._replace(values=seen.values[:, 1:], mask=None if seen.mask is None else seen.mask[:, 1:])
    if items.present is not None:
        seen = _in_their_places(seen, items.present.flatten())
    slots, mask, pooled = items.values.shape[: 3 if items.kind == "video" else 2], seen.mask, seen.pooled
    return items._replace(
        values=seen.values.unflatten(0, slots),
        mask=None if mask is None else mask.unflatten(0, slots),
        pooled=None if pooled is None else pooled.unflatten(0, slots),
        output=seen.output,
    )


def _token_mask(tower: Any, mask: torch.Tensor) -> torch.Tensor:
    """Patches (n, rows, columns) that are real -> tokens (n, S). Raises: ValueError for a tower that reads all."""
    if not isinstance(tower, MMVisionModel):
        raise no_mask_inside(tower, mask)
    return tower.token_mask(mask)


def _ready(items: MediaItems, dtype: torch.dtype) -> MediaItems:
    """Ready tower output as if the tower had just given it; without a pooled vector the mean of its tokens is one."""
    tokens, mask = items.values.to(dtype), items.mask
    if mask is None and items.present is not None:
        mask = items.present[..., None].expand(tokens.shape[:3])
    pooled = masked_mean(tokens, mask, dim=2) if items.pooled is None else items.pooled.to(dtype)
    return items._replace(values=tokens, mask=mask, pooled=pooled)


# ---- items that are present -----------------------------------------------------------------------------------------


def flatten_present(items: MediaItems) -> MediaItems:
    """What a tower runs on: (B, N[, F], ...) -> (n, ...), the items that are present, with their masks.

    In an exported graph, which needs one shape, all of them. A batch without any runs one blank item, which lands
    nowhere: so every rank of a distributed run uses the same parameters, with zero gradients.
    """
    values, mask, hidden = items.values, items.mask, items.hidden_patches
    grids = None if items.grids is None else items.grids.flatten(0, 1)
    values = values.flatten(0, 2 if items.kind == "video" else 1)
    mask = None if mask is None else mask.flatten(0, 1)
    hidden = None if hidden is None else hidden.flatten(0, 1)
    if items.present is not None:
        present = items.present.flatten()
        values = select_present(values, present)
        mask = None if mask is None else select_present_masks(mask, present)
        hidden = None if hidden is None else select_present(hidden, present)
        grids = None if grids is None else select_present(grids, present)
    return items._replace(values=values, mask=mask, hidden_patches=hidden, present=None, grids=grids)


def select_present(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(M, ...) -> (n, ...), those that are present; one blank item if all are absent."""
    if torch.compiler.is_exporting():
        return values
    found = values[present]
    if len(found):
        return found
    return values[:1].nan_to_num(0, 0, 0) * 0 if values.is_floating_point() else torch.zeros_like(values[:1])


def select_present_masks(mask: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """As `select_present`; every part of the blank item is real."""
    if torch.compiler.is_exporting():
        return mask | ~present.reshape(-1, *[1] * (mask.ndim - 1))
    found = mask[present]
    return found if len(found) else torch.ones_like(mask[:1])


def scatter_present(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(n, ...) of the items present -> (M, ...), zeros for absent ones; a blank item is dropped."""
    if torch.compiler.is_exporting():
        return values.masked_fill(~present.reshape(-1, *[1] * (values.ndim - 1)), 0)
    places = values.new_zeros(len(present), *values.shape[1:])
    places[present] = values
    return places


def _in_their_places(seen: MediaItems, present: torch.Tensor) -> MediaItems:
    """What a tower made of the items present, (n, ...), among all (M, ...); absent ones have no token."""
    tokens, mask, pooled = seen.values, seen.mask, seen.pooled
    mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
    return seen._replace(
        values=scatter_present(tokens, present),
        mask=scatter_present(mask, present),
        pooled=None if pooled is None else scatter_present(pooled, present),
    )


# ---- a tower by its config ------------------------------------------------------------------------------------------


def build_tower(config: PreTrainedConfig, layer: int = -1) -> nn.Module:
    """The tower that a config describes; of an encoder-decoder, the encoder.

    What the hidden state of `layer` does not depend on (a foreign tower's pooler or head, and layers above another
    layer than the last) is kept, so that its checkpoint loads whole, and frozen.
    """
    if type(config) is MMConvConfig:
        from .conv import MMConvModel  # three files, which no other tower needs

        if layer != -1:
            raise ValueError(
                f"layer={layer} names a hidden state, but a convolutional tower gives its last map; use -1"
            )
        return MMConvModel._from_config(config)
    if type(config) is MMVisionConfig:
        tower = MMVisionModel._from_config(config)
        if layer != -1:
            for part in (*tower.layers[layer if layer >= 0 else layer + len(tower.layers) + 1 :], tower.norm):
                part.requires_grad_(False)
        return tower
    from .foreign_towers import build_foreign  # two files, which no tower of ours needs

    return build_foreign(config, layer)
