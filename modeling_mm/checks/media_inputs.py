"""Checks of forward's media inputs, and their common form: slots (B, N, ...) with bool masks.

B contexts, N items per context (pictures, videos, clips), F frames, S tokens, h, w patches, Dv vision tower width.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ...configuration.mm import MMConfig
from .text_inputs import check_mask_values, check_tensors, may_read_values


class MediaItems(NamedTuple):
    """The items of one kind, before a tower and after it.

    values: the tower's input, (B, N, ...), of videos (B, N, F, ...); then its tokens, (B, N[, F], S, Dv).
    kind: "image", "video", "audio", or "text" for the states of a text encoder.
    present: bool (B, N), of videos (B, N, F) until their frames are joined: which are present; None: all.
    mask: bool (B, N, ...), the real part of each item (patches, audio frames, then tokens); None: everything.
    pooled: (B, N[, F], Dv), the tower's own vector; None: it has none.
    output: the tower's own output.
    hidden_patches: bool (B, N, L), the patches that the tower's mask token replaces.
    is_ready: whether values are a tower's output already.
    """

    values: torch.Tensor
    kind: str = "image"
    present: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    output: Any = None
    hidden_patches: torch.Tensor | None = None
    is_ready: bool = False


class MediaInput(NamedTuple):
    """What an input of media has to look like."""

    kind: str  # the modality that the model needs for it
    item: str
    shape: tuple[str, ...]  # of one item: "C" are the colours and "Dv" the width of the vision tower; (): any
    mask: str
    part_dims: int = 0  # dimensions of a mask inside each item; 0: it tells of whole items only
    parts: str = ""  # such a mask, in words
    is_ready: bool = False  # whether it is a tower's output


_PATCHES, _TOKENS = "(rows, columns), True for each real patch", "(tokens,), True for each real token"
_FRAMES = "(frames,), True for each real frame"
MEDIA_INPUTS = {
    "pixel_values": MediaInput("image", "picture", ("C", "height", "width"), "pixel_attention_mask", 2, _PATCHES),
    "visual_embeds": MediaInput("image", "picture", ("S", "Dv"), "pixel_attention_mask", 1, _TOKENS, is_ready=True),
    "pixel_values_videos": MediaInput("video", "frame", ("F", "C", "height", "width"), "video_attention_mask"),
    "input_features": MediaInput("audio", "clip", (), "input_features_mask", 1, _FRAMES),
}
_KINDS = {
    **{what.mask: what.kind for what in MEDIA_INPUTS.values()},
    **{name: what.kind for name, what in MEDIA_INPUTS.items()},
}
# What a mask or an index speaks of: one of these is given beside it.
_OWNERS = {
    "pixel_attention_mask": ("pixel_values", "visual_embeds"),
    "video_attention_mask": ("pixel_values_videos",),
    "input_features_mask": ("input_features",),
    "context_attention_mask": ("context_input_ids",),
    "media_index": ("context_input_ids",),
}


def check_media(
    config: MMConfig, given: Mapping[str, torch.Tensor], hidden_patches: torch.Tensor | None = None
) -> list[MediaItems]:
    """The media among the inputs that are given, each kind once.

    Args:
        given: media inputs by name, and the text encoder's, none of them None.
        hidden_patches: bool (B, N, L), of pixel_values.
    Raises: ValueError or TypeError in words, for a modality or a text encoder that the model lacks too.
    """
    for name in given:
        if name not in _KINDS and not config.has_text_encoder:
            raise ValueError(f"{name} was given, but this model has no text encoder")
        if name in _KINDS and _KINDS[name] not in (config.modalities or []):
            raise ValueError(f"{name} was given, but this model accepts modalities={config.modalities}")
        if name in _OWNERS and not any(owner in given for owner in _OWNERS[name]):
            raise ValueError(f"{name} was given without {' or '.join(_OWNERS[name])}")
    if "pixel_values" in given and "visual_embeds" in given:
        raise ValueError("pass pixel_values or visual_embeds (ready tower output), not both")
    found = []
    for name, what in MEDIA_INPUTS.items():
        if name in given:
            items = _in_slots(config, name, what, given[name])
            if what.mask in given:
                items = _with_mask(items, what, given[what.mask])
            found.append(items._replace(hidden_patches=hidden_patches if name == "pixel_values" else None))
    return found


def _in_slots(config: MMConfig, name: str, what: MediaInput, values: torch.Tensor) -> MediaItems:
    """One input by type, shape and values, always with the dimension of the items: (B, N, ...)."""
    check_tensors(**{name: values})
    sizes = {"C": getattr(config.vision_config, "num_channels", None)}  # not every foreign config says it
    if what.is_ready:
        sizes["Dv"] = config.vision_size
    dims, sides = len(what.shape), values.shape[max(values.ndim - len(what.shape), 0) :]
    fits = values.ndim in (dims + 1, dims + 2) if dims else values.ndim >= 3
    fits = fits and all(sizes.get(side) in (None, size) for side, size in zip(what.shape, sides, strict=False))
    if not fits or not values.is_floating_point():
        of_item = ", ".join(str(sizes.get(side) or side) for side in what.shape)
        wanted = f"float (B, {of_item}) or (B, N, {of_item})"
        if "C" in what.shape:
            wanted = f"(B, {of_item}) or (B, N, {of_item}), normalised floats as the processor gives them"
        if not dims:
            wanted = "float (B, A, ...), A clips per context and then what the audio tower takes"
        raise ValueError(f"{name} must be {wanted}; got {values.dtype} {tuple(values.shape)}")
    if not values.numel():
        raise ValueError(f"{name} holds no {what.item}: {tuple(values.shape)}; leave {name} out for text alone")
    if config.check_inputs and may_read_values() and not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} hold NaN or infinite values")
    one_each = dims > 0 and values.ndim == dims + 1
    return MediaItems(values[:, None] if one_each else values, what.kind, is_ready=what.is_ready)


def _with_mask(items: MediaItems, what: MediaInput, mask: torch.Tensor) -> MediaItems:
    """The items with their mask, which is one value per item (or frame of a video), or per part of each item.

    A single item (N = 1) may come without its dimension.
    """
    check_tensors(**{what.mask: mask})
    slots, shape = tuple(items.values.shape[: 3 if items.kind == "video" else 2]), tuple(mask.shape)
    leads = [slots] if slots[1] != 1 else [slots, (slots[0], *slots[2:])]
    inside = len(shape) - what.part_dims
    is_of_parts = what.part_dims and any(shape[:inside] == lead for lead in leads)
    if shape not in leads and not is_of_parts:
        parts = f", or {slots} + {what.parts}" if what.parts else ""
        raise ValueError(f"{what.mask} must be {slots}, True for each {what.item} present{parts}; got {shape}")
    if may_read_values():
        check_mask_values(what.mask, mask)
    mask = mask.to(device=items.values.device, dtype=torch.bool)
    if shape in leads:
        return items._replace(present=mask.reshape(slots))
    mask = mask.reshape(*slots, *shape[inside:])
    return items._replace(present=mask.flatten(2).any(-1), mask=mask)
