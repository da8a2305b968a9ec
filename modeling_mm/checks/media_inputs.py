"""Checks of the media that users hand to forward, in words, and their one form: slots (B, N, ...) with bool masks.

B contexts, N items per context (pictures, videos, clips), F frames, S tokens, h, w patches, Dv vision tower width.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch

from ...configuration.mm import MMConfig
from .text_inputs import check_mask_values, check_tensors, may_read_values


class MediaItems(NamedTuple):
    """The items of one kind, before a tower and after it.

    values: what the tower takes, (B, N, ...), of videos (B, N, F, ...); then its tokens, (B, N[, F], S, Dv).
    kind: "image", "video", "audio", or "text" for the states of a text encoder.
    present: bool (B, N), of videos (B, N, F) until their frames are joined: which are there; None: all.
    mask: bool (B, N, ...), what of each item is real (patches, audio frames, then tokens); None: everything.
    pooled: (B, N[, F], Dv), the tower's own vector; None: it has none.
    output: the tower's own output.
    hidden_patches: bool (B, N, L), the patches that the tower's mask token stands for.
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

    def to(self, dtype: torch.dtype) -> Self:
        """With ready tokens in the model's dtype; what a tower takes, it casts itself."""
        return self._replace(values=self.values.to(dtype)) if self.is_ready else self


def check_media(
    config: MMConfig,
    texts: Mapping[str, torch.Tensor | None],
    hidden_patches: torch.Tensor | None = None,
    **media: torch.Tensor | None,
) -> list[MediaItems]:
    """The media that are given, each kind once; `texts` are the text encoder's inputs beside them.

    Raises: ValueError or TypeError in words, for a modality that the model lacks too.
    """
    refuse_absent(config, **media, **texts)
    refuse_lonely(**media, **texts)
    given = {name: value for name, value in media.items() if value is not None}
    if "pixel_values" in given and "visual_embeds" in given:
        raise ValueError("pass pixel_values or visual_embeds (ready tower output), not both")
    items = []
    if "pixel_values" in given:
        seen = pictures(config, given["pixel_values"], media.get("pixel_attention_mask"))
        items.append(seen._replace(hidden_patches=hidden_patches))
    if "visual_embeds" in given:
        items.append(ready_tokens(config, given["visual_embeds"], media.get("pixel_attention_mask")))
    if "pixel_values_videos" in given:
        items.append(videos(config, given["pixel_values_videos"], media.get("video_attention_mask")))
    if "input_features" in given:
        items.append(clips(config, given["input_features"], media.get("input_features_mask")))
    return items


def pictures(config: MMConfig, pixel_values: torch.Tensor, mask: torch.Tensor | None) -> MediaItems:
    """(B, C, H, W) or (B, N, C, H, W), with a mask per picture (B[, N]) or per patch (B[, N], h, w)."""
    channels = _channels(config)
    check_tensors(pixel_values=pixel_values)
    if pixel_values.ndim not in (4, 5) or channels not in (None, pixel_values.shape[-3]):
        shown = channels or "channels"
        raise ValueError(
            f"pixel_values must be (B, {shown}, height, width) or (B, N, {shown}, height, width); "
            f"got {tuple(pixel_values.shape)}"
        )
    _check_pixels(config, "pixel_values", pixel_values, "picture")
    values = pixel_values[:, None] if pixel_values.ndim == 4 else pixel_values
    return _masked(MediaItems(values, "image"), mask, "pixel_attention_mask", "picture", "patch", 2)


def ready_tokens(config: MMConfig, visual_embeds: torch.Tensor, mask: torch.Tensor | None) -> MediaItems:
    """Tower output (B, S, Dv) or (B, N, S, Dv), with a mask per picture (B[, N]) or per token (B[, N], S)."""
    check_tensors(visual_embeds=visual_embeds)
    width = config.vision_size
    if visual_embeds.ndim not in (3, 4) or visual_embeds.shape[-1] != width or not visual_embeds.is_floating_point():
        raise ValueError(
            f"visual_embeds must be float (B, S, {width}) or (B, N, S, {width}), the vision tower's width last; "
            f"got {visual_embeds.dtype} {tuple(visual_embeds.shape)}"
        )
    _check_filled(config, "visual_embeds", visual_embeds, "picture")
    values = visual_embeds[:, None] if visual_embeds.ndim == 3 else visual_embeds
    return _masked(MediaItems(values, is_ready=True), mask, "pixel_attention_mask", "picture", "token", 1)


def videos(config: MMConfig, pixel_values: torch.Tensor, mask: torch.Tensor | None) -> MediaItems:
    """(B, F, C, H, W) or (B, N, F, C, H, W), with a mask per frame (B[, N], F)."""
    name, channels = "pixel_values_videos", _channels(config)
    check_tensors(pixel_values_videos=pixel_values)
    if pixel_values.ndim not in (5, 6) or channels not in (None, pixel_values.shape[-3]):
        shown = channels or "channels"
        raise ValueError(
            f"{name} must be (B, F, {shown}, height, width) or (B, N, F, {shown}, height, width); "
            f"got {tuple(pixel_values.shape)}"
        )
    _check_pixels(config, name, pixel_values, "frame")
    values = pixel_values[:, None] if pixel_values.ndim == 5 else pixel_values
    items = MediaItems(values, "video")
    if mask is None:
        return items
    check_tensors(video_attention_mask=mask)
    expected = tuple(values.shape[:3])
    if tuple(mask.shape) != expected and (mask.shape[0], 1, *mask.shape[1:]) != expected:
        raise ValueError(f"video_attention_mask must be {expected}, True for each real frame; got {tuple(mask.shape)}")
    return items._replace(present=_as_bool("video_attention_mask", mask, values).reshape(expected))


def clips(config: MMConfig, input_features: torch.Tensor, mask: torch.Tensor | None) -> MediaItems:
    """(B, A, ...), always with the dimension of the clips, with a mask per clip (B, A) or per frame (B, A, frames)."""
    check_tensors(input_features=input_features)
    if input_features.ndim < 3 or not input_features.is_floating_point():
        raise ValueError(
            "input_features must be float (B, A, ...), A clips per context and then what the audio tower takes; got "
            f"{input_features.dtype} {tuple(input_features.shape)}"
        )
    _check_filled(config, "input_features", input_features, "clip")
    return _masked(MediaItems(input_features, "audio"), mask, "input_features_mask", "clip", "frame", 1)


def _channels(config: MMConfig) -> int | None:
    """Colours that the vision tower takes; None: its config does not say."""
    return getattr(config.vision_config, "num_channels", None)  # not every foreign config has it


def _check_pixels(config: MMConfig, name: str, values: torch.Tensor, item: str) -> None:
    if not values.is_floating_point():
        raise ValueError(f"{name} are {values.dtype}; expected normalised floats, as the processor gives them")
    _check_filled(config, name, values, item)


def _check_filled(config: MMConfig, name: str, values: torch.Tensor, item: str) -> None:
    if not values.numel():
        raise ValueError(f"{name} holds no {item}: {tuple(values.shape)}; leave {name} out for text alone")
    if config.check_inputs and may_read_values() and not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} hold NaN or infinite values")


def _masked(
    items: MediaItems, mask: torch.Tensor | None, name: str, item: str, part: str, part_dims: int
) -> MediaItems:
    """Sorts out which of its two kinds a mask is: per item, or per part with `part_dims` more dimensions."""
    if mask is None:
        return items
    check_tensors(**{name: mask})
    grid = tuple(items.values.shape[:2])
    of_items = tuple(mask.shape) == grid or (*mask.shape, 1) == grid
    leads = [grid] if grid[1] != 1 else [grid, grid[:1]]  # a single item may come without its dimension
    of_parts = any(mask.shape[: len(lead)] == lead and mask.ndim == len(lead) + part_dims for lead in leads)
    if not of_items and not of_parts:
        parts = {"patch": f"{grid} + (rows, columns), True for each real patch"}
        more = parts.get(part, f"{grid} + ({part}s,), True for each real {part}")
        raise ValueError(f"{name} must be {grid}, True for each {item} present, or {more}; got {tuple(mask.shape)}")
    mask = _as_bool(name, mask, items.values)
    if of_items:
        return items._replace(present=mask.reshape(grid))
    mask = mask.reshape(*grid, *mask.shape[mask.ndim - part_dims :])
    return items._replace(present=mask.flatten(2).any(-1), mask=mask)


def _as_bool(name: str, mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    if may_read_values():
        check_mask_values(name, mask)
    return mask.to(device=values.device, dtype=torch.bool)


def refuse_absent(config: MMConfig, **given: torch.Tensor | None) -> None:
    """Inputs of a modality or part that this model was built without."""
    owners = {"pixel_values": "image", "pixel_attention_mask": "image", "visual_embeds": "image"}
    owners |= {"pixel_values_videos": "video", "video_attention_mask": "video"}
    owners |= {"input_features": "audio", "input_features_mask": "audio"}
    for name, value in given.items():
        if value is None:
            continue
        if name not in owners and not config.has_text_encoder:
            raise ValueError(f"{name} was given, but this model has no text encoder")
        if name in owners and owners[name] not in (config.modalities or []):
            raise ValueError(f"{name} was given, but this model accepts modalities={config.modalities}")


def refuse_lonely(**given: torch.Tensor | None) -> None:
    """A mask or an index without what it speaks of."""
    owners = {
        "pixel_attention_mask": ("pixel_values", "visual_embeds"),
        "video_attention_mask": ("pixel_values_videos",),
        "input_features_mask": ("input_features",),
        "context_attention_mask": ("context_input_ids",),
        "media_index": ("context_input_ids",),
    }
    for name, wanted in owners.items():
        if given.get(name) is not None and all(given.get(owner) is None for owner in wanted):
            raise ValueError(f"{name} was given without {' or '.join(wanted)}")
