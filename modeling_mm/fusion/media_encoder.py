"""Media to tokens: towers, item numbers, frames of a video and the projector, each a function.

B contexts, N items per context (pictures, videos, clips), F frames, S tokens; Dv, Dc: widths of the tower and the
context.
"""

from collections import OrderedDict

import torch
from torch import nn

from ...configuration.mm import MMConfig
from ..checks.media_inputs import MediaItems
from ..core.pooling import masked_mean
from ..towers.any_tower import tower_features


def build_projector(config: MMConfig, width: int) -> nn.Module:
    """`width` of a tower or resampler -> the width that the reader of the media takes in."""
    outputs = config.media_width
    if config.projector_type == "none":
        return nn.Identity()
    if config.projector_type == "linear":
        return nn.Linear(width, outputs)
    if config.projector_type == "linear_norm":
        norm = nn.LayerNorm(outputs, eps=config.projector_norm_eps)
        return nn.Sequential(OrderedDict(dense=nn.Linear(width, outputs), norm=norm))
    layers = {"up_proj": nn.Linear(width, outputs), "act": nn.GELU(), "down_proj": nn.Linear(outputs, outputs)}
    return nn.Sequential(OrderedDict(layers))


def build_slots(number: int, width: int) -> nn.Embedding | None:
    """A learned vector per item number; None where items have no order."""
    return nn.Embedding(number, width) if number else None


# ---- absent items: a tower runs on those that are there -------------------------------------------------------------


def present_items(values: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """The items that are there, (M, ...) -> (n, ...). In an exported graph, which wants one shape, all of them.

    A batch without any runs one blank item, which `placed_items` puts nowhere: so every rank of a distributed run uses
    the same parameters, with zero gradients.
    """
    if present is None or torch.compiler.is_exporting():
        return values
    found = values[present]
    if len(found):
        return found
    return values[:1].nan_to_num(0, 0, 0) * 0 if values.is_floating_point() else torch.zeros_like(values[:1])


def present_masks(mask: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """As `present_items`; every part of the blank item is real."""
    if present is None:
        return mask
    if torch.compiler.is_exporting():
        return mask | ~present.reshape(-1, *[1] * (mask.ndim - 1))
    found = mask[present]
    return found if len(found) else torch.ones_like(mask[:1])


def placed_items(values: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """(n, ...) of the items that are there -> (M, ...), zeros where there is none; a blank item lands nowhere."""
    if present is None:
        return values
    if torch.compiler.is_exporting():
        return values.masked_fill(~present.reshape(-1, *[1] * (values.ndim - 1)), 0)
    places = values.new_zeros(len(present), *values.shape[1:])
    places[present] = values
    return places


# ---- (B, N[, F], ...) -> tokens -------------------------------------------------------------------------------------


def encode_items(tower: nn.Module, items: MediaItems, **settings) -> MediaItems:
    """Runs a tower on the items (or frames) that are there: tokens (B, N[, F], S, Dv), pooled (B, N[, F], Dv)."""
    if items.is_ready:
        return _as_encoded(items)
    depth = 3 if items.kind == "video" else 2
    grid = items.values.shape[:depth]
    present = None if items.present is None else items.present.flatten()
    mask = None if items.mask is None else present_masks(items.mask.flatten(0, depth - 1), present)
    if items.hidden_patches is not None:
        settings["bool_masked_pos"] = present_items(items.hidden_patches.flatten(0, 1), present).bool()
    features = tower_features(tower, present_items(items.values.flatten(0, depth - 1), present), mask, **settings)
    mask = features.mask
    if mask is None and present is not None:
        mask = features.tokens.new_ones(features.tokens.shape[:2], dtype=torch.bool)
    pooled = features.pooled
    return items._replace(
        values=placed_items(features.tokens, present).unflatten(0, grid),
        mask=None if mask is None else placed_items(mask, present).unflatten(0, grid),
        pooled=None if pooled is None else placed_items(pooled, present).unflatten(0, grid),
        output=features.output,
    )


def _as_encoded(items: MediaItems) -> MediaItems:
    """Ready tower output as if a tower had just given it; its pooled vector is the mean of its tokens."""
    tokens, mask = items.values, items.mask
    if mask is None and items.present is not None:
        mask = items.present[..., None].expand(tokens.shape[:3])
    return items._replace(mask=mask, pooled=masked_mean(tokens, mask, dim=2))


def add_numbers(tokens: torch.Tensor, slots: nn.Embedding | None, what: str, setting: str, dim: int = 1):
    """Adds a learned vector per number along `dim`, at tower width."""
    if slots is None:
        return tokens
    count = tokens.shape[dim]
    if count > slots.num_embeddings:
        raise ValueError(f"{count} {what} were given, but {setting}={slots.num_embeddings}")
    vectors = slots(torch.arange(count, device=tokens.device))
    return tokens + vectors.reshape(count, *[1] * (tokens.ndim - dim - 2), -1)


def join_frames(items: MediaItems, video_pooling: str) -> MediaItems:
    """Frames to one item per video: (B, N, F, S, Dv) -> (B, N, F*S, Dv), or F or S tokens by `video_pooling`."""
    tokens, frames = items.values, items.present
    length = tokens.shape[3]
    present = None if frames is None else frames.any(-1)
    pooled = None if items.pooled is None else masked_mean(items.pooled, frames, dim=2)
    if video_pooling == "space":
        tokens, mask = tokens.mean(3), frames
    elif video_pooling == "time":
        mask = None if present is None else present[..., None].expand(*tokens.shape[:2], length)
        tokens = masked_mean(tokens, frames, dim=2)
    else:
        mask = None if frames is None else frames.repeat_interleave(length, dim=2)
        tokens = tokens.flatten(2, 3)
    return items._replace(values=tokens, mask=mask, pooled=pooled, present=present)
