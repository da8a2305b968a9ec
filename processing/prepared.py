"""Samples that went through the processor, or through a tower, before: padded and stacked. T tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .samples import label_tensor, stacked
from .token_rows import IGNORED_LABEL, pad_id, pad_rows

# What such a sample may hold, without batch dim: rows are padded; media get slots, and a mask where slots are empty.
ROW_COLUMNS = ("input_ids", "attention_mask", "labels")
CONTEXT_COLUMNS = ("context_input_ids", "context_attention_mask")
MASK_OF = {
    "pixel_values": "pixel_attention_mask",
    "pixel_values_videos": "video_attention_mask",
    "input_features": "input_features_mask",
}
MEDIA_COLUMNS = (*MASK_OF, *MASK_OF.values(), "visual_embeds")
READY_COLUMNS = (*ROW_COLUMNS, *CONTEXT_COLUMNS, *MEDIA_COLUMNS, "label")


def stack_ready(
    samples: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    *,
    side: str,
    train: bool,
    max_length: int | None,
    pad_to_multiple_of: int | None,
) -> dict[str, Any]:
    """A batch of ready samples. Rows are contexts. Outside of training only prompts are kept."""
    free = {"id", *MASK_OF.values()}  # the processor gives a mask only where something is masked
    wanted = {name for name in READY_COLUMNS if name in samples[0]} - free
    for index, sample in enumerate(samples):
        alone = [mask for name, mask in MASK_OF.items() if mask in sample and name not in wanted]
        if set(sample) - free != wanted or alone:
            raise ValueError(
                f"sample {index} holds the columns {sorted(sample)}; ready samples hold the same ones throughout, "
                f"of {READY_COLUMNS}"
            )
    columns = {name: [torch.as_tensor(sample[name]) for sample in samples] for name in READY_COLUMNS if name in wanted}
    batch = {}
    if "input_ids" in columns:
        rows = _rows(columns) if train else _prompts(_rows(columns))
        batch = _padded(rows, tokenizer, side, max_length, pad_to_multiple_of)
    given = columns.get("label") or columns.get("labels")
    if given and "labels" not in batch and train:
        batch["labels"] = label_tensor([label.numpy() for label in given], [1] * len(given))
    if "context_input_ids" in columns:
        contexts = {"input_ids": columns["context_input_ids"]}
        if "context_attention_mask" in columns:
            contexts["attention_mask"] = columns["context_attention_mask"]
        padded = _padded(_rows(contexts), tokenizer, "right", max_length, pad_to_multiple_of)
        batch |= {f"context_{name}": values for name, values in padded.items()}
    if "visual_embeds" in columns:
        batch["visual_embeds"] = stacked("visual_embeds", columns["visual_embeds"])
    for name in MASK_OF:
        if name in columns:
            batch |= _slotted(name, columns[name], [sample.get(MASK_OF[name]) for sample in samples])
    return batch


def _slotted(name: str, values: list[torch.Tensor], given: list[Any]) -> dict[str, torch.Tensor]:
    """Media of each sample with as many slots (pictures, frames, clips) as the sample with most of them, and a bool
    mask where one was given or slots are left empty."""
    masks = [None if mask is None else torch.as_tensor(mask, dtype=torch.bool) for mask in given]
    known = [mask for mask in masks if mask is not None]
    if name == "input_features":  # (A, ...), or (A, T, ...) where clips have their own lengths
        uneven = len({tuple(value.shape[1:2]) for value in values}) > 1
        slots = 2 if uneven else max([1, *(mask.ndim for mask in known)])
    else:  # (N, C, H, W), (F, C, H, W) or (N, F, C, H, W); one picture or video is one of several
        slots = max(value.ndim for value in values) - 3
        short = [value.ndim - 3 < slots for value in values]
        values = [value[None] if one else value for value, one in zip(values, short, strict=True)]
        masks = [mask[None] if one and mask is not None else mask for mask, one in zip(masks, short, strict=True)]
    if slots == 0:  # a picture each; where they are of their own sizes, with masks of patches
        whole = [torch.ones_like(known[0]) if mask is None else mask for mask in masks] if known else []
        return {name: stacked(name, values)} | ({MASK_OF[name]: stacked(MASK_OF[name], whole)} if known else {})
    stacked(name, [value.new_zeros(value.shape[slots:]) for value in values])  # raises for sizes that differ
    sizes = [max(value.shape[axis] for value in values) for axis in range(slots)]
    patches = next((mask.shape[slots:] for mask in masks if mask is not None), ())
    made = torch.zeros(len(values), *sizes, *values[0].shape[slots:])
    mask = torch.zeros(len(values), *sizes, *patches, dtype=torch.bool)
    for row, (value, own) in enumerate(zip(values, masks, strict=True)):
        place = (row, *(slice(size) for size in value.shape[:slots]))
        made[place] = value
        mask[place] = True if own is None else own.reshape(*own.shape, *[1] * (slots - own.ndim))
    return {name: made} | ({MASK_OF[name]: mask} if known or not mask.all() else {})


def _rows(columns: dict[str, list[torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
    """input_ids, attention_mask and, where each token has a label, labels."""
    ids = columns["input_ids"]
    if any(row.ndim != 1 for row in ids):
        raise ValueError(f"input_ids of a ready sample are (T,), without batch dim; got {tuple(ids[0].shape)}")
    masks = columns.get("attention_mask") or [torch.ones_like(row) for row in ids]
    rows = {"input_ids": ids, "attention_mask": masks}
    labels = columns.get("labels")
    if labels and all(
        label.shape == row.shape and not label.is_floating_point() for label, row in zip(labels, ids, strict=True)
    ):
        rows["labels"] = labels
    return rows


def _prompts(rows: dict[str, list[torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
    """The part of each row that is real and has no label."""
    keep = [mask != 0 for mask in rows["attention_mask"]]
    if "labels" in rows:
        keep = [real & (label == IGNORED_LABEL) for real, label in zip(keep, rows["labels"], strict=True)]
    return {
        name: [row[prompt] for row, prompt in zip(rows[name], keep, strict=True)]
        for name in ("input_ids", "attention_mask")
    }


def _padded(
    rows: dict[str, list[torch.Tensor]], tokenizer: Any, side: str, max_length: int | None, multiple: int | None
) -> dict[str, torch.Tensor]:
    longest = max(len(row) for row in rows["input_ids"])
    if max_length is not None and longest > max_length:
        raise ValueError(f"a ready sample has {longest} tokens, more than max_length={max_length}: cut it before")
    length = longest + -longest % (multiple or 1)
    ragged = any(len(row) < length for row in rows["input_ids"])
    fills = {"input_ids": pad_id(tokenizer) if ragged else 0, "attention_mask": 0, "labels": IGNORED_LABEL}
    return {
        name: torch.tensor(pad_rows([row.tolist() for row in values], length, fills[name], side))
        for name, values in rows.items()
    }
