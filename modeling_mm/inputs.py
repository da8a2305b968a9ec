"""Checks of what users hand to forward, in words. They read values on the host, so never inside compile or export.

B contexts, N pictures per context, R rows, T text tokens, S tokens, Dv vision tower width.
"""

import torch
from transformers.utils.import_utils import is_torchdynamo_compiling

from ..configuration.mm import MMConfig
from ..configuration.text import MMTextConfig


def may_read_values() -> bool:
    """False while tracing, where reading a value on the host would break the graph."""
    return not (is_torchdynamo_compiling() or torch.jit.is_tracing())


def check_positions(position_ids: torch.Tensor, config: MMTextConfig) -> None:
    """Positions inside the table. On an accelerator single decode steps are trusted, to spare a sync per token."""
    if not may_read_values() or not position_ids.numel():
        return
    if position_ids.device.type != "cpu" and position_ids.shape[-1] == 1:
        return
    last = int(position_ids.max())
    if last >= config.max_position_embeddings:
        raise ValueError(
            f"the text needs {last + 1} positions, but max_position_embeddings={config.max_position_embeddings}; "
            "shorten the prompt or ask for fewer new tokens"
        )


def check_text(
    config: MMConfig,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    read_values: bool = True,
) -> None:
    """Shapes, dtypes and id ranges of the text side; exactly one of input_ids and inputs_embeds."""
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"pass exactly one of input_ids and inputs_embeds; got {given}")
    text = config.text_config
    if input_ids is not None:
        _check_ids("input_ids", input_ids, text.vocab_size, read_values and config.check_inputs)
        shape = tuple(input_ids.shape)
    else:
        shape = tuple(inputs_embeds.shape[:2])
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[2] != text.hidden_size:
            raise ValueError(
                f"inputs_embeds must be (R, T, {text.hidden_size}), hidden_size last; got {tuple(inputs_embeds.shape)}"
            )
    if attention_mask is not None and attention_mask.ndim == 2:
        if attention_mask.shape[0] != shape[0] or attention_mask.shape[1] < shape[1]:
            raise ValueError(
                f"attention_mask must be (R, past + T) for text {shape}; got {tuple(attention_mask.shape)}"
            )


def check_labels(config: MMConfig, labels: torch.Tensor, shape: torch.Size) -> None:
    """Labels of the text's shape, ids inside the vocabulary or -100."""
    if labels.shape != shape:
        raise ValueError(f"labels must have the shape {tuple(shape)} of the text; got {tuple(labels.shape)}")
    _check_ids("labels", labels, config.text_config.vocab_size, config.check_inputs, ignored=-100)


def _check_ids(name: str, ids: torch.Tensor, vocab_size: int, read_values: bool, ignored: int | None = None) -> None:
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"{name} must be int64 (R, T); got {ids.dtype} {tuple(ids.shape)}")
    if ids.shape[1] == 0:
        raise ValueError(f"{name} holds rows of 0 tokens; a row needs at least its bos token")
    if not read_values or not may_read_values() or not ids.numel():
        return
    real = ids if ignored is None else ids.masked_fill(ids == ignored, 0)
    low, high = int(real.min()), int(real.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"{name} must be in 0..{vocab_size - 1} (text_config.vocab_size); got {low}..{high}")


def check_pixels(config: MMConfig, pixel_values: torch.Tensor) -> None:
    """Pixels of one or several pictures per context: float, (B, C, H, W) or (B, N, C, H, W), finite."""
    channels = config.vision_config.num_channels
    if not torch.is_tensor(pixel_values):
        raise TypeError(f"pixel_values must be a float tensor; got {type(pixel_values).__name__}")
    if pixel_values.ndim not in (4, 5) or pixel_values.shape[-3] != channels:
        raise ValueError(
            f"pixel_values must be (B, {channels}, height, width) or (B, N, {channels}, height, width); "
            f"got {tuple(pixel_values.shape)}"
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values are {pixel_values.dtype}; expected normalised floats, as the processor gives them"
        )
    if config.check_inputs and may_read_values() and not bool(torch.isfinite(pixel_values).all()):
        raise ValueError("pixel_values hold NaN or infinite values")


def check_visual_embeds(config: MMConfig, visual_embeds: torch.Tensor) -> None:
    """Ready tower output: float (B, S, Dv) or (B, N, S, Dv)."""
    width = config.vision_size
    if visual_embeds.ndim not in (3, 4) or visual_embeds.shape[-1] != width or not visual_embeds.is_floating_point():
        raise ValueError(
            f"visual_embeds must be float (B, S, {width}) or (B, N, S, {width}), the vision tower's width last; "
            f"got {visual_embeds.dtype} {tuple(visual_embeds.shape)}"
        )


def picture_mask(mask: torch.Tensor | None, items: torch.Tensor, name: str) -> torch.Tensor | None:
    """The presence mask as bool (B, N) beside items (B, N, ...); None stays None."""
    if mask is None:
        return None
    expected = tuple(items.shape[:2])
    if mask.ndim == 1:
        mask = mask[:, None]
    if tuple(mask.shape) != expected:
        raise ValueError(f"{name} must be {expected}, True for each picture present; got {tuple(mask.shape)}")
    return mask.to(device=items.device, dtype=torch.bool)


def refuse_absent(config: MMConfig, **given: torch.Tensor | None) -> None:
    """Inputs of a modality or part that this model was built without."""
    for name, value in given.items():
        if value is None:
            continue
        if name.startswith("context_") or name == "media_index":
            raise ValueError(f"{name} was given, but this model has no text encoder")
        raise ValueError(f"{name} was given, but this model accepts modalities={config.modalities}")
