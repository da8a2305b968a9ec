"""What stands between a tower and the context: item numbers, frames of a video, resampler and projector.

B contexts, N items per context (pictures, videos, clips), F frames, S tokens; Dv, Dc: widths of the tower and the
context.
"""

from collections import OrderedDict

import torch
from torch import nn

from ...configuration.mm import MMConfig
from ..checks.media_inputs import MediaItems
from ..core.pooling import masked_mean
from ..towers.any_tower import placed_items, present_items, present_masks


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


# kind -> what is numbered, and the setting that says how many numbers there are
_NUMBERED = {
    "image": ("pictures per context", "max_images"),
    "video": ("frames per video", "max_frames"),
    "audio": ("clips per context", "max_clips"),
}


def add_numbers(items: MediaItems, slots: nn.Embedding) -> MediaItems:
    """Adds a learned vector per number of a picture, clip or frame, at tower width."""
    tokens, dim = items.values, 2 if items.kind == "video" else 1
    count = tokens.shape[dim]
    if count > slots.num_embeddings:
        what, setting = _NUMBERED[items.kind]
        raise ValueError(f"{count} {what} were given, but {setting}={slots.num_embeddings}")
    vectors = slots(torch.arange(count, device=tokens.device))
    return items._replace(values=tokens + vectors.reshape(count, *[1] * (tokens.ndim - dim - 2), -1))


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


def resample(items: MediaItems, resampler: nn.Module, projector: nn.Module) -> MediaItems:
    """Tokens (B, N, S, Dv) of the items that are there -> projected latents (B, N, L, Dc), zeros elsewhere."""
    slots, tokens = items.values.shape[:2], items.values.flatten(0, 1)
    mask = None if items.mask is None else items.mask.flatten(0, 1)
    if items.present is None:
        latents, vector = resampler(tokens, mask)
        latents, real = projector(latents).unflatten(0, slots), None
    else:
        present = items.present.flatten()
        mask = None if mask is None else present_masks(mask, present)
        latents, vector = resampler(present_items(tokens, present), mask)
        latents = placed_items(projector(latents), present).unflatten(0, slots)
        vector = None if vector is None else placed_items(vector, present)
        real = items.present[..., None].expand(latents.shape[:3])
    pooled = items.pooled if vector is None else vector.unflatten(0, slots)
    return items._replace(values=latents, mask=real, pooled=pooled)
