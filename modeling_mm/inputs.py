"""Checks of what users hand to forward, in words. They read values on the host, so never inside compile or export.

B contexts, N pictures per context, R rows, T text tokens, S tokens, Dv vision tower width.
"""

# torch does not export is_tracing; which of two tensors is there is the check that stands before.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers.utils.import_utils import is_torchdynamo_compiling

from ..configuration.mm import MMConfig
from ..configuration.text import MMTextConfig

INTEGERS = (torch.int64, torch.int32)


def may_read_values() -> bool:
    """False while tracing, where reading a value on the host would break the graph."""
    return not (is_torchdynamo_compiling() or torch.jit.is_tracing())


def check_tensors(**given) -> None:
    """TypeError for an input that is not a tensor; None passes."""
    for name, value in given.items():
        if value is not None and not torch.is_tensor(value):
            raise TypeError(f"{name} must be a tensor; got {type(value).__name__}")


def check_positions(position_ids: torch.Tensor, config: MMTextConfig) -> None:
    """Positions inside the table. On an accelerator single decode steps are trusted, to spare a sync per token."""
    if not may_read_values() or not position_ids.numel():
        return
    if position_ids.device.type != "cpu" and position_ids.shape[-1] == 1:
        return
    first, last = int(position_ids.min()), int(position_ids.max())
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
) -> None:
    """The text side: exactly one of input_ids and inputs_embeds, and what goes with it, by shape, dtype and range.

    Args:
        has_past: a cache may hold earlier tokens, so the mask may be longer than the text.
        read_values: look at ids and masks, not at shapes alone; never while tracing.
    """
    check_tensors(input_ids=input_ids, inputs_embeds=inputs_embeds, position_ids=position_ids)
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"pass exactly one of input_ids and inputs_embeds; got {given}")
    read_values = read_values and may_read_values()
    if input_ids is not None:
        _check_ids("input_ids", input_ids, config.vocab_size, read_values)
        shape = tuple(input_ids.shape)
    else:
        shape = _check_embeds(inputs_embeds, config.hidden_size)
    if attention_mask is not None and not isinstance(attention_mask, BlockMask):
        _check_attention_mask(attention_mask, shape, has_past, read_values)
    if position_ids is not None:
        rows, length = shape
        if tuple(position_ids.shape) not in ((rows, length), (1, length)) or position_ids.dtype not in INTEGERS:
            raise ValueError(
                f"position_ids must be int64 {shape}, as the text; got {position_ids.dtype} "
                f"{tuple(position_ids.shape)}"
            )
    if token_type_ids is not None and config.type_vocab_size:
        check_tensors(token_type_ids=token_type_ids)
        _check_ids("token_type_ids", token_type_ids, config.type_vocab_size, read_values, limit="type_vocab_size")
        if tuple(token_type_ids.shape) != shape:
            raise ValueError(f"token_type_ids must be {shape}, as the text; got {tuple(token_type_ids.shape)}")


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


def _check_attention_mask(mask: torch.Tensor, shape: tuple[int, int], has_past: bool, read_values: bool) -> None:
    check_tensors(attention_mask=mask)
    if mask.ndim == 4:  # ready made, of the attention implementation's kind
        return
    rows, length = shape
    if mask.ndim != 2 or mask.shape[0] != rows or mask.shape[1] < length or (mask.shape[1] > length and not has_past):
        wanted = "(R, past + T)" if has_past else "(R, T)"
        raise ValueError(f"attention_mask must be {wanted} for text {shape}; got {tuple(mask.shape)}")
    if read_values:
        _check_mask_values("attention_mask", mask)


def _check_mask_values(name: str, mask: torch.Tensor) -> None:
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"{name} must hold 0 and 1 alone (1 = real); got {float(mask.min())}..{float(mask.max())}")


def check_prompt_ends(attention_mask: torch.Tensor | None) -> None:
    """Generation goes on behind the last column, so that must hold a real token in every row."""
    if attention_mask is None or attention_mask.ndim != 2 or not may_read_values():
        return
    if not bool(attention_mask[:, -1].all()):
        raise ValueError("generate() goes on behind the last column, but attention_mask ends in 0; pad on the left")


def check_labels(config: MMConfig, labels: torch.Tensor, shape: torch.Size) -> None:
    """Labels of the text's shape, ids inside the vocabulary or -100."""
    check_tensors(labels=labels)
    if labels.shape != shape:
        raise ValueError(f"labels must have the shape {tuple(shape)} of the text; got {tuple(labels.shape)}")
    read_values = config.check_inputs and may_read_values()
    _check_ids("labels", labels, config.text_config.vocab_size, read_values, ignored=-100)


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


def check_pixels(config: MMConfig, pixel_values: torch.Tensor) -> None:
    """Pixels of one or several pictures per context: float, (B, C, H, W) or (B, N, C, H, W), finite."""
    channels = config.vision_config.num_channels
    check_tensors(pixel_values=pixel_values)
    if pixel_values.ndim not in (4, 5) or pixel_values.shape[-3] != channels:
        raise ValueError(
            f"pixel_values must be (B, {channels}, height, width) or (B, N, {channels}, height, width); "
            f"got {tuple(pixel_values.shape)}"
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values are {pixel_values.dtype}; expected normalised floats, as the processor gives them"
        )
    _check_filled(config, "pixel_values", pixel_values)


def check_visual_embeds(config: MMConfig, visual_embeds: torch.Tensor) -> None:
    """Ready tower output: float (B, S, Dv) or (B, N, S, Dv), finite."""
    check_tensors(visual_embeds=visual_embeds)
    width = config.vision_size
    if visual_embeds.ndim not in (3, 4) or visual_embeds.shape[-1] != width or not visual_embeds.is_floating_point():
        raise ValueError(
            f"visual_embeds must be float (B, S, {width}) or (B, N, S, {width}), the vision tower's width last; "
            f"got {visual_embeds.dtype} {tuple(visual_embeds.shape)}"
        )
    _check_filled(config, "visual_embeds", visual_embeds)


def _check_filled(config: MMConfig, name: str, values: torch.Tensor) -> None:
    if not values.numel():
        raise ValueError(f"{name} holds no picture: {tuple(values.shape)}; leave {name} out for text alone")
    if config.check_inputs and may_read_values() and not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} hold NaN or infinite values")


def picture_mask(mask: torch.Tensor | None, items: torch.Tensor, name: str) -> torch.Tensor | None:
    """The presence mask as bool (B, N) beside items (B, N, ...); None stays None."""
    if mask is None:
        return None
    check_tensors(**{name: mask})
    expected = tuple(items.shape[:2])
    if tuple(mask.shape) != expected and (*mask.shape, 1) != expected:
        raise ValueError(f"{name} must be {expected}, True for each picture present; got {tuple(mask.shape)}")
    if may_read_values():
        _check_mask_values(name, mask)
    return mask.reshape(expected).to(device=items.device, dtype=torch.bool)


def check_memory(states: torch.Tensor, mask: torch.Tensor | None, width: int, name: str) -> None:
    """A ready context: float (B, S, width), B and S at least 1, with a mask (B, S) or none."""
    if states.ndim != 3 or states.shape[-1] != width or not states.is_floating_point() or not states.numel():
        raise ValueError(
            f"{name} must be float (B, S, {width}), at least one token each (a mask says which are real); "
            f"got {states.dtype} {tuple(states.shape)}"
        )
    if mask is not None and mask.shape != states.shape[:2]:
        raise ValueError(f"the mask of {name} must be {tuple(states.shape[:2])}; got {tuple(mask.shape)}")


def check_logits_to_keep(logits_to_keep: int | torch.Tensor) -> None:
    if not isinstance(logits_to_keep, int | torch.Tensor) or isinstance(logits_to_keep, bool):
        raise TypeError(f"logits_to_keep must be an int or a tensor; got {type(logits_to_keep).__name__}")
    if isinstance(logits_to_keep, int) and logits_to_keep < 0:
        raise ValueError(f"logits_to_keep={logits_to_keep} must not be negative; 0 keeps all positions")


def refuse_absent(config: MMConfig, **given: torch.Tensor | None) -> None:
    """Inputs of a modality or part that this model was built without."""
    for name, value in given.items():
        if value is None:
            continue
        if name.startswith("context_") or name == "media_index":
            raise ValueError(f"{name} was given, but this model has no text encoder")
        raise ValueError(f"{name} was given, but this model accepts modalities={config.modalities}")


def check_patch_mask(mask: torch.Tensor, shape: tuple[int, ...]) -> None:
    """A mask of patches (n, rows, columns): in each picture one rectangle at the top left, at least one patch."""
    check_tensors(pixel_attention_mask=mask)
    if tuple(mask.shape) != shape:
        raise ValueError(f"pixel_attention_mask must be {shape}, one per patch; got {tuple(mask.shape)}")
    if not may_read_values():
        return
    _check_mask_values("pixel_attention_mask", mask)
    real = mask.bool()
    rectangle = real.any(2)[:, :, None] & real.any(1)[:, None]
    if not bool((real == rectangle).all() & real[:, 0, 0].all()) or bool((real[:, :, 1:] > real[:, :, :-1]).any()):
        raise ValueError("pixel_attention_mask must be True in one rectangle at the top left of each picture")
    if bool((real[:, 1:] > real[:, :-1]).any()):
        raise ValueError("pixel_attention_mask must be True in one rectangle at the top left of each picture")
