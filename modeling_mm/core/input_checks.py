"""Checks of forward's inputs, text and media; media also get their common form: slots (B, N, ...) with bool masks.

Values are read on the host, so never inside compile or export.
B contexts, N items per context (pictures, videos, clips), F frames, R rows, T text tokens, S tokens, Dv vision tower
width.
"""

# torch does not export is_tracing; callers have already checked that exactly one of the two tensors is given.

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers.utils.import_utils import is_torchdynamo_compiling

from ...configuration.mm import MMConfig
from ...configuration.text import MMTextConfig
from ...configuration.tower_kinds import heard_shape
from .inputs_outputs import MediaInput, MediaInputs

INTEGERS = (torch.int64, torch.int32)


def may_read_values() -> bool:
    """False while tracing, where reading a value on the host would break the graph."""
    return not (is_torchdynamo_compiling() or torch.jit.is_tracing())  # pyright: ignore[reportPrivateImportUsage]: torch's


def check_tensors(**given) -> None:
    """TypeError for an input that is not a tensor; None passes."""
    for name, value in given.items():
        if value is not None and not torch.is_tensor(value):
            raise TypeError(f"{name} must be a tensor; got {type(value).__name__}")


def without_padding(text: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    """The text (R, T) without the last columns in which no row has a token; as it is while tracing, and with a ready
    4-D mask."""
    mask = text.get("attention_mask")
    if not torch.is_tensor(mask) or mask.ndim != 2 or mask.is_meta or not may_read_values():
        return text
    length = int(mask.bool().any(0).nonzero()[-1:].sum()) + 1  # at least 1
    return {name: value if value is None else value[:, :length] for name, value in text.items()}


def check_positions(position_ids: torch.Tensor, config: MMTextConfig) -> None:
    """Positions inside the table. On an accelerator single decode steps are trusted, to spare a sync per token."""
    if not may_read_values() or position_ids.is_meta or not position_ids.numel():
        return
    if position_ids.device.type != "cpu" and position_ids.shape[-1] == 1:
        return
    ends = (position_ids,) if position_ids.numel() == 1 else position_ids.aminmax()
    first, last = int(ends[0]), int(ends[-1])
    if first < 0:
        raise ValueError(f"position_ids must not be negative; got {first}")
    if last >= config.max_position_embeddings:
        raise ValueError(
            f"the text needs {last + 1} positions, but max_position_embeddings={config.max_position_embeddings}; "
            "shorten the prompt or ask for fewer new tokens"
        )


def check_text(
    config: MMTextConfig,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    attention_mask: torch.Tensor | BlockMask | None = None,
    position_ids: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    has_past: bool = False,
    read_values: bool = True,
    prefix: str = "",
) -> None:
    """The text side: exactly one of input_ids and inputs_embeds, and what goes with it, by shape, dtype and range.

    Args:
        has_past: a cache may hold earlier tokens, so the mask may be longer than the text.
        read_values: look at ids and masks, not only at shapes; never while tracing.
        prefix: of the names of input_ids and attention_mask, "context_" for the text encoder's.
    """
    check_tensors(**{f"{prefix}input_ids": input_ids}, inputs_embeds=inputs_embeds, position_ids=position_ids)
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"pass exactly one of input_ids and inputs_embeds; got {given}")
    read_values, shape = read_values and may_read_values(), (0, 0)
    if input_ids is not None:
        limit = "text_encoder_config.vocab_size" if prefix else "text_config.vocab_size"
        _check_ids(f"{prefix}input_ids", input_ids, config.vocab_size, read_values, limit=limit)
        shape = input_ids.shape[0], input_ids.shape[1]
    elif inputs_embeds is not None:
        shape = _check_embeds(inputs_embeds, config.hidden_size)
    if attention_mask is not None and not isinstance(attention_mask, BlockMask):
        _check_attention_mask(f"{prefix}attention_mask", attention_mask, shape, has_past, read_values)
    if position_ids is not None:
        rows, length = shape
        if tuple(position_ids.shape) not in ((rows, length), (1, length)) or position_ids.dtype not in INTEGERS:
            raise ValueError(
                f"position_ids must be int64 {shape}, as the text; got {position_ids.dtype} "
                f"{tuple(position_ids.shape)}"
            )
    if token_type_ids is not None:
        size = 2 if config.bidirectional_prompt else config.type_vocab_size
        _check_token_types(token_type_ids, size, shape, read_values)


def _check_token_types(types: torch.Tensor, size: int, shape: tuple[int, int], read_values: bool) -> None:
    """Types inside the table. A text without one takes zeros, which many tokenizers give and which say nothing."""
    check_tensors(token_type_ids=types)
    if tuple(types.shape) != shape:
        raise ValueError(f"token_type_ids must be {shape}, as the text; got {tuple(types.shape)}")
    if not size and read_values and types.numel() and bool(types.any()):
        raise ValueError(
            f"token_type_ids hold {int(types.min())}..{int(types.max())}, but this model has no token types "
            "(type_vocab_size=0); leave them out"
        )
    _check_ids("token_type_ids", types, size or 1, read_values, limit="type_vocab_size")


def check_candidates(config: MMConfig, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Answers to choose from: ids (C, Ta) inside the decoder's vocabulary, and a mask of their shape or none."""
    check_tensors(candidate_ids=ids)
    read_values = config.check_inputs and may_read_values()
    _check_ids("candidate_ids", ids, config.text_config.vocab_size, read_values)
    if mask is not None:
        shape = (ids.shape[0], ids.shape[1])
        _check_attention_mask("candidate_attention_mask", mask, shape, has_past=False, read_values=read_values)


def _check_embeds(inputs_embeds: torch.Tensor, width: int) -> tuple[int, int]:
    """(R, T) of embeddings (R, T, width)."""
    shape = tuple(inputs_embeds.shape)
    if len(shape) != 3 or shape[2] != width or not inputs_embeds.is_floating_point():
        raise ValueError(
            f"inputs_embeds must be float (R, T, {width}), hidden_size last; got {inputs_embeds.dtype} {shape}"
        )
    if not inputs_embeds.numel():
        raise ValueError(f"inputs_embeds is empty: {shape}; at least one row of one token is needed")
    return shape[0], shape[1]


def _check_attention_mask(
    name: str, mask: torch.Tensor, shape: tuple[int, int], has_past: bool, read_values: bool
) -> None:
    check_tensors(**{name: mask})
    if mask.ndim == 4:  # ready made, of the attention implementation's kind
        return
    rows, length = shape
    if mask.ndim != 2 or mask.shape[0] != rows or mask.shape[1] < length or (mask.shape[1] > length and not has_past):
        wanted = "(R, past + T)" if has_past else "(R, T)"
        raise ValueError(f"{name} must be {wanted} for text {shape}; got {tuple(mask.shape)}")
    if read_values:
        check_mask_values(name, mask)


def check_mask_values(name: str, mask: torch.Tensor) -> None:
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"{name} must hold only 0 and 1 (1 = real); got {float(mask.min())}..{float(mask.max())}")


def check_labels(config: MMConfig, labels: torch.Tensor, shape: torch.Size) -> None:
    """Labels of the text's shape, ids inside the vocabulary or -100."""
    check_tensors(labels=labels)
    if labels.shape != shape:
        raise ValueError(f"labels must have the shape {tuple(shape)} of the text; got {tuple(labels.shape)}")
    read_values = config.check_inputs and may_read_values()
    limit = "text_config.vocab_size" + (" without unwritten_tokens" if config.unwritten_tokens else "")
    _check_ids("labels", labels, config.written_tokens, read_values, ignored=-100, limit=limit)


def _check_ids(
    name: str,
    ids: torch.Tensor,
    size: int,
    read_values: bool,
    ignored: int | None = None,
    limit: str = "text_config.vocab_size",
) -> None:
    if ids.ndim != 2 or ids.dtype not in INTEGERS:
        raise ValueError(f"{name} must be int64 (R, T); got {ids.dtype} {tuple(ids.shape)}")
    if not ids.numel():
        raise ValueError(f"{name} is empty: {tuple(ids.shape)}; at least one row of one token (bos) is needed")
    if not read_values:
        return
    real = ids if ignored is None else ids.masked_fill(ids == ignored, 0)
    low, high = int(real.min()), int(real.max())
    if low < 0 or high >= size:
        raise ValueError(f"{name} must be in 0..{size - 1} ({limit}); got {low}..{high}")


def check_tokens(states: torch.Tensor, mask: torch.Tensor | None, width: int, name: str) -> None:
    """Tokens of a context or of items: float (B, S, width), B and S at least 1, with a mask (B, S) or none."""
    if states.ndim != 3 or states.shape[-1] != width or not states.is_floating_point() or not states.numel():
        raise ValueError(
            f"{name} must be float (B, S, {width}), at least one token each (a mask says which are real); "
            f"got {states.dtype} {tuple(states.shape)}"
        )
    if mask is not None and mask.shape != states.shape[:2]:
        raise ValueError(f"the mask of {name} must be {tuple(states.shape[:2])}; got {tuple(mask.shape)}")


# ---- pictures, as a tower takes them --------------------------------------------------------------------------------


def check_pixels(pixel_values: torch.Tensor, channels: int) -> None:
    """Pictures: float (n, channels, height, width), n at least 1."""
    if pixel_values is None:
        raise TypeError("pixel_values must be a tensor; got None")
    check_tensors(pixel_values=pixel_values)
    shape = tuple(pixel_values.shape)
    if len(shape) != 4 or shape[1] != channels or not shape[0] or not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values must be float (n, {channels}, height, width), n at least 1; "
            f"got {pixel_values.dtype} {shape}"
        )


def other_size(pixel_values: torch.Tensor, image_size: Any, sides: str = "") -> ValueError:
    """The error for pictures of another size than the config's; `sides` says which others can be asked for."""
    height, width = pixel_values.shape[-2:]
    return ValueError(
        f"pixel_values are {height}x{width}, but image_size={image_size}; resize them, or pass "
        f"interpolate_pos_encoding=True{sides}"
    )


def no_mask_inside(tower: Any, mask: torch.Tensor) -> ValueError:
    """The error for a mask of parts of items, for a tower that always reads whole ones."""
    return ValueError(
        f"a mask {tuple(mask.shape)} inside each item was given, but {type(tower).__name__} cannot leave out a part "
        "of one; give one value per item"
    )


# ---- media ----------------------------------------------------------------------------------------------------------


class MediaItems(NamedTuple):
    """The items of one kind, before a tower and after it.

    values: the tower's input, (B, N, ...), of videos (B, N, F, ...); then its tokens, (B, N[, F], S, Dv).
    kind: "image", "video", "audio", or "text" for the states of a text encoder.
    present: bool (B, N), of videos (B, N, F) until their frames are joined: which are present; None: all.
    mask: bool (B, N, ...), the real part of each item (patches, audio frames, then tokens); None: everything.
    pooled: (B, N[, F], Dv), the tower's own vector; None: it has none (or, of ready items, it was not given).
    output: the tower's own output.
    hidden_patches: bool (B, N, L), the patches that the tower's mask token replaces.
    is_ready: whether values are a tower's output already.
    grids: int64 (B, N, 2), rows and columns of tiles of each item, where tiles are read together; lacking: bool
        (B, N, S), their tokens that are of no tile.
    """

    values: torch.Tensor
    kind: str = "image"
    present: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    output: Any = None
    hidden_patches: torch.Tensor | None = None
    is_ready: bool = False
    grids: torch.Tensor | None = None
    lacking: torch.Tensor | None = None


# name -> what an input of media has to look like, as MediaInputs says it
MEDIA_INPUTS: dict[str, MediaInput] = {
    name: note
    for name, kind in MediaInputs.__annotations__.items()
    for note in getattr(kind, "__metadata__", ())
    if isinstance(note, MediaInput)
}
POOLED = "visual_pooler_output"  # beside visual_embeds
GRIDS = "image_grids"
_KINDS = {
    **{what.mask: what.kind for what in MEDIA_INPUTS.values()},
    **{name: what.kind for name, what in MEDIA_INPUTS.items()},
    POOLED: "image",
    GRIDS: "image",
}
# What a mask or an index is about: one of these is given beside it.
_OWNERS = {
    what.mask: [name for name, other in MEDIA_INPUTS.items() if other.mask == what.mask]
    for what in MEDIA_INPUTS.values()
} | {
    "context_attention_mask": ["context_input_ids"],
    "media_index": ["context_input_ids"],
    POOLED: ["visual_embeds"],
    GRIDS: ["pixel_values", "visual_embeds"],
}


def check_media(
    config: MMConfig, given: Mapping[str, torch.Tensor], hidden_patches: torch.Tensor | None = None
) -> list[MediaItems]:
    """The media among the inputs that are given, each kind once.

    Args:
        given: media inputs by name, and the text encoder's, none of them None.
        hidden_patches: bool (B, N, L), of pixel_values.
    Raises: ValueError or TypeError, also for a modality or a text encoder that the model lacks.
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
            if what.is_ready and POOLED in given:
                items = items._replace(pooled=_pooled_in_slots(config, items, given[POOLED]))
            found.append(items._replace(hidden_patches=hidden_patches if name == "pixel_values" else None))
    return found


def _in_slots(config: MMConfig, name: str, what: MediaInput, values: torch.Tensor) -> MediaItems:
    """One input by type, shape and values, always with the dimension of the items: (B, N, ...)."""
    check_tensors(**{name: values})
    sizes = {"C": getattr(config.vision_config, "num_channels", None)}  # not every foreign config says it
    if what.is_ready:
        sizes["Dv"] = config.vision_size
    # the sizes of one item, or (): any number of them, so that the dimension of the items is always given
    shape = [sizes.get(side) or side for side in what.shape or heard_shape(config.audio_config)]
    dims, sides = len(shape), values.shape[max(values.ndim - len(shape), 0) :]
    fits = values.ndim in (dims + 1, dims + 2) if dims else values.ndim >= 3
    fits = fits and all(
        isinstance(side, str) or size in (side if isinstance(side, tuple) else (side,))
        for side, size in zip(shape, sides, strict=False)
    )
    if not fits or not values.is_floating_point():
        of_item = ", ".join(" or ".join(map(str, side)) if isinstance(side, tuple) else str(side) for side in shape)
        wanted = f"float (B, {of_item}) or (B, N, {of_item})"
        if "C" in what.shape:
            wanted = f"(B, {of_item}) or (B, N, {of_item}), normalised floats as the processor gives them"
        if not shape:
            wanted = "float (B, A, ...), A clips per context and then what the audio tower takes"
        if dims == 3 and what.kind == "audio" and shape[0] == 1:
            wanted += ' of a feature extractor that does not fuse (truncation="rand_trunc", not "fusion")'
        raise ValueError(f"{name} must be {wanted}; got {values.dtype} {tuple(values.shape)}")
    if not values.numel():
        raise ValueError(
            f"{name} holds no {what.item}: {tuple(values.shape)}; leave {name} out for a text without media"
        )
    if config.check_inputs and may_read_values() and not is_finite(values):
        raise ValueError(f"{name} hold NaN or infinite values")
    one_each = dims > 0 and values.ndim == dims + 1
    return MediaItems(values[:, None] if one_each else values, what.kind, is_ready=what.is_ready)


def _pooled_in_slots(config: MMConfig, items: MediaItems, pooled: torch.Tensor) -> torch.Tensor:
    """The pooled vectors (B, N, Dv) of ready items; a single item may come without its dimension."""
    check_tensors(**{POOLED: pooled})
    batch, slots, _, width = items.values.shape
    shapes = [(batch, slots, width), *([(batch, width)] if slots == 1 else [])]
    if tuple(pooled.shape) not in shapes or not pooled.is_floating_point():
        raise ValueError(
            f"{POOLED} must be float {shapes[-1]}, a vector for each picture of visual_embeds; got {pooled.dtype} "
            f"{tuple(pooled.shape)}"
        )
    if config.check_inputs and may_read_values() and not is_finite(pooled):
        raise ValueError(f"{POOLED} holds NaN or infinite values")
    return pooled.reshape(batch, slots, width)


def is_finite(values: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite. The sum says so ten times faster, unless finite numbers overflow it."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


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
