"""Samples that went through the processor, or through a tower, before: padded and stacked. T tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .rows import IGNORED_LABEL, pad_id, pad_rows
from .samples import label_tensor, stacked

# What such a sample may hold, without batch dim: rows are padded, media stacked.
ROW_COLUMNS = ("input_ids", "attention_mask", "labels")
MEDIA_COLUMNS = ("pixel_values", "pixel_attention_mask", "visual_embeds")


def stack_ready(
    samples: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    *,
    side: str,
    train: bool,
    max_length: int | None,
    pad_to_multiple_of: int | None,
) -> tuple[dict[str, Any], list[str]]:
    """A batch of ready samples, and their names. Rows are contexts. Outside of training only prompts are kept."""
    names = [name for name in (*ROW_COLUMNS, *MEDIA_COLUMNS, "label") if name in samples[0]]
    for index, sample in enumerate(samples):
        if set(sample) - {"id"} != set(names):
            raise ValueError(
                f"sample {index} holds the columns {sorted(sample)}; ready samples hold the same ones throughout, "
                f"of {(*ROW_COLUMNS, *MEDIA_COLUMNS, 'label')}"
            )
    columns = {name: [torch.as_tensor(sample[name]) for sample in samples] for name in names}
    batch = {}
    if "input_ids" in columns:
        rows = _rows(columns) if train else _prompts(_rows(columns))
        batch = _padded(rows, tokenizer, side, max_length, pad_to_multiple_of)
    given = columns.get("label") or columns.get("labels")
    if given and "labels" not in batch and train:
        batch["labels"] = label_tensor([label.numpy() for label in given], [1] * len(given))
    media = {name: stacked(name, columns[name]) for name in MEDIA_COLUMNS if name in columns}
    return batch | media, [str(sample.get("id", index)) for index, sample in enumerate(samples)]


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
    """The part of each row that has no label."""
    if "labels" not in rows:
        return rows
    keep = [label == IGNORED_LABEL for label in rows["labels"]]
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
