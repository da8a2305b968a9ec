"""Audio towers for sounds of any length: the output of a row does not depend on the rest of the batch.

    rows of 3, 5, 3 frames ── by length ─┬─ (2, 3) ── tower ─┐
                                         └─ (1, 5) ── tower ─┴─ tokens (3, S, D), zeros after each row's own, mask

Most of these towers look beyond a mask: a group norm averages over time, convolutions reach over the last frame. So
rows run by their true lengths, one call for each length that a batch holds. A tower of Wav2Vec2's kind with layer
norms keeps to its mask and runs all rows at once. n rows, T frames or samples, S tokens, D width.
"""

# Pyright cannot know the methods and settings of another library's tower.

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ...configuration.tower_kinds import MASKED_KINDS, WINDOW_KINDS

# (kernel, stride) of the convolutions at the bottom, where the config does not hold them.
_CONVOLUTIONS = {"moonshine": ((127, 64), (7, 3), (3, 2))}


def takes_any_length(tower: Any) -> bool:
    """Whether a foreign tower hears sounds of any length, and not windows of one."""
    return tower.main_input_name != "pixel_values" and tower.config.model_type not in WINDOW_KINDS


def keeps_to_mask(config: PreTrainedConfig) -> bool:
    """Whether no state of a real frame depends on padding."""
    return (
        config.model_type in MASKED_KINDS
        and config.feat_extract_norm == "layer"
        and not getattr(config, "add_adapter", False)
        and not getattr(config, "conv_pos_batch_norm", False)
    )


def _convolutions(config: PreTrainedConfig) -> tuple[tuple[int, int], ...]:
    if config.model_type == "lasr_encoder":
        return ((config.subsampling_conv_kernel_size, config.subsampling_conv_stride),) * 2
    kernels = getattr(config, "conv_kernel", None)
    if kernels is None or isinstance(kernels, int):
        return _CONVOLUTIONS.get(config.model_type, ())
    return tuple(zip(kernels, config.conv_stride, strict=True))


def shortest_sound(config: PreTrainedConfig) -> int:
    """The fewest samples or frames that make one token."""
    length = getattr(config, "squeeze_factor", 1)  # SEW's
    for kernel, stride in reversed(_convolutions(config)):
        length = (length - 1) * stride + kernel
    return length


def real_lengths(values: torch.Tensor, mask: torch.Tensor | None) -> list[int]:
    """Real samples or frames of each row. Raises ValueError for a mask with holes, or one that is not of the time."""
    if mask is None:
        return [values.shape[1]] * len(values)
    if mask.shape != values.shape[:2]:
        raise ValueError(
            f"input_features_mask is {tuple(mask.shape)} for each clip's {tuple(values.shape)}; this tower takes "
            f"{tuple(values.shape[:2])}, True for what is real of each"
        )
    if torch.compiler.is_exporting():
        raise ValueError(
            "a mask inside each clip decides which shapes are run, so it cannot be exported; leave it out"
        )
    lengths = mask.sum(-1)
    if not bool((mask == (torch.arange(mask.shape[1], device=mask.device) < lengths[:, None])).all()):
        raise ValueError("input_features_mask must be True from the start of each clip to its end, and False after it")
    return lengths.tolist()


def without_short_augmentation(tower: Any, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Turns SpecAugment off for a sound shorter than one of its masks, for which Transformers raises an error."""
    config = tower.config
    names = inspect.signature(tower.forward).parameters
    if not tower.training or "mask_time_indices" not in names or not getattr(config, "mask_time_prob", 0):
        return {}
    frames = values.shape[1]
    for kernel, stride in _convolutions(config):
        frames = (frames - kernel) // stride + 1
    if frames >= config.mask_time_length:
        return {}
    return {"mask_time_indices": torch.zeros(len(values), frames, dtype=torch.bool, device=values.device)}


def run_by_length(run: Callable[[torch.Tensor], Any], values: torch.Tensor, lengths: list[int], shortest: int) -> Any:
    """`run`'s features of (n, T, ...) rows of these lengths: one call for each length.

    A sound too short for one token is lengthened with silence until it makes one.
    """
    parts = []
    for length in sorted(set(lengths)):
        rows = torch.tensor([row for row, own in enumerate(lengths) if own == length], device=values.device)
        chosen = values[:, :length] if len(rows) == len(values) else values[rows, :length]
        if length < shortest:
            tail = [0] * (2 * (values.ndim - 2)) + [0, shortest - length]
            chosen = nn.functional.pad(chosen, tail)
        parts.append((rows, run(chosen)))
    if len(parts) == 1:
        features = parts[0][1]
        return features._replace(mask=torch.ones(features.values.shape[:2], dtype=torch.bool, device=values.device))
    return _together(parts, len(values))


def _together(parts: list[tuple[torch.Tensor, Any]], n: int) -> Any:
    """Features of groups of rows as those of one batch, zeros after the tokens of each row."""
    own = [(rows, torch.ones_like(features.values[..., 0], dtype=torch.bool)) for rows, features in parts]
    first = parts[0][1]
    states = {}
    for name in ("hidden_states", "attentions"):
        if first.output.get(name) is not None:
            layers = zip(*(features.output[name] for _, features in parts), strict=True)
            groups = [rows for rows, _ in parts]
            states[name] = tuple(_padded(list(zip(groups, layer, strict=True)), n) for layer in layers)
    return first._replace(
        values=_padded([(rows, features.values) for rows, features in parts], n),
        mask=_padded(own, n),
        pooled=_padded([(rows, features.pooled) for rows, features in parts], n),
        output=BaseModelOutputWithPooling(**states),
    )


def _padded(parts: list[tuple[torch.Tensor, torch.Tensor]], n: int) -> torch.Tensor:
    """(n, ...) out of groups of rows (rows, values), which are as large as the largest of each dimension."""
    sizes = [max(values.shape[dim] for _, values in parts) for dim in range(1, parts[0][1].ndim)]
    whole = parts[0][1].new_zeros(n, *sizes)
    for rows, values in parts:
        missing = [number for size, own in zip(sizes, values.shape[1:], strict=True) for number in (size - own, 0)]
        whole = whole.index_copy(0, rows, nn.functional.pad(values, missing[::-1]))
    return whole
