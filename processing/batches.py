"""The columns of samples: raw ones are read, checked and brought together; those that went through the processor, or
through a tower, before are padded and stacked. R rows, L labels, T tokens.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .media import KEYS
from .pairing import Samples
from .placeholders import BY_TOOLS
from .token_rows import IGNORED_LABEL, pad_id, pad_rows

# The columns of a sample that hold one medium and several, by the name of the processor's argument.
MEDIA_OF = {"images": ("image", "images"), "videos": ("video", "videos"), "audio": ("audio", "audios")}
MEDIA_VALUES = (*KEYS.values(), "visual_embeds")


def sources_of(index: int, sample: Mapping[str, Any]) -> dict[str, list]:
    """The sources of the pictures, videos and sounds of a sample, [] for those it has none of."""
    found = {}
    for name, (one_column, several_column) in MEDIA_OF.items():
        one, several = sample.get(one_column), sample.get(several_column)
        if one is not None and several is not None:
            raise ValueError(f"sample {index} has both {one_column} and {several_column}; give one of them")
        if several is not None and not isinstance(several, (list, tuple)):
            raise TypeError(
                f"{several_column} of sample {index} is a list; got {type(several).__name__} (a single one goes to "
                f"{one_column})"
            )
        given = [] if one is None else [one]
        found[name] = [_undecoded(source) for source in (given if several is None else several)]
    return found


def media_key(source: Any) -> tuple:
    """What two equal sources have in common, without reading them."""
    if isinstance(source, (str, os.PathLike)):
        return "path", os.fspath(source)
    if isinstance(source, (bytes, bytearray)):
        return "bytes", hashlib.blake2b(source).digest()
    return "object", id(source)


def _undecoded(source: Any) -> Any:
    """The bytes or the path of what `datasets` gives for media that it does not decode."""
    if isinstance(source, dict) and source.get("array") is None:
        return source["bytes"] if source.get("bytes") is not None else source.get("path", source)
    return source


def column(samples: Sequence[Mapping[str, Any]], name: str) -> list | None:
    """A column that all samples have or none; None where none has it."""
    values = [sample.get(name) for sample in samples]
    missing = [index for index, value in enumerate(values) if value is None]
    if len(missing) == len(values):
        return None
    if missing:
        raise ValueError(
            f"{name} is missing from {len(missing)} of {len(values)} samples, first from sample {missing[0]}"
        )
    return values


def texts(samples: Sequence[Mapping[str, Any]], name: str, may_lack: bool = False) -> list[list] | None:
    """A column of texts as lists: each sample has one text or several; may_lack: or none, where some sample has."""
    values = [sample.get(name) for sample in samples] if may_lack else column(samples, name)
    if values is None or all(value is None for value in values):
        return None
    return [list(value) if isinstance(value, (list, tuple)) else [value] for value in values]


def texts_under(contexts: list, samples: Sequence[Mapping[str, Any]], name: str) -> list[list] | None:
    """A column of texts nested like the context texts of each sample: if one sample has a list and another a single
    text, the list is several rows."""
    values = column(samples, name)
    return values and [
        list(value) if isinstance(context, (list, tuple)) and isinstance(value, (list, tuple)) else [value]
        for context, value in zip(contexts, values, strict=True)
    ]


def nested_texts(
    processor: Any, samples: Sequence[Mapping[str, Any]], sources: list[dict], train: bool
) -> dict[str, list]:
    """text, suffix and context_text of each sample, nested as the processor takes them; those that there are."""
    to_context = processor.prompt_to == "context" and column(samples, "context_text") is None
    asked, prompt = ("text", "context_text") if to_context else ("context_text", "text")
    contexts = column(samples, asked)
    if contexts is None:
        prompts, suffixes = texts(samples, "text", may_lack=True), texts(samples, "suffix")
        if prompts is None and suffixes is not None:
            prompts = [[""] * len(rows) for rows in suffixes]
        places = processor.places()
        if places is not None:
            given = {name: [held[name] for held in sources] for name in MEDIA_OF if any(one[name] for one in sources)}
            prompts = places.in_front(prompts, given, BY_TOOLS)
        found = {"text": prompts, "suffix": suffixes if train else None}
    else:
        found = {
            "context_text": texts(samples, asked),
            "text": texts_under(contexts, samples, prompt),
            "suffix": texts_under(contexts, samples, "suffix") if train else None,
        }
    return {name: values for name, values in found.items() if values is not None}


def label_tensor(labels: list, counts: list[int]) -> torch.Tensor:
    """Labels of R rows: int64 (R,) of whole numbers, float32 (R,) or (R, L) of others. `counts`: rows per sample."""
    rows = []
    for index, (label, count) in enumerate(zip(labels, counts, strict=True)):
        if count > 1 and np.shape(label)[:1] != (count,):
            raise ValueError(f"label of sample {index} is a list of {count}, one for each of its texts; got {label!r}")
        rows += list(label) if count > 1 else [label]
    shapes = {np.shape(row) for row in rows}
    if len(shapes) > 1:
        raise ValueError(f"label has one shape throughout; got {sorted(shapes)}")
    values = np.asarray(rows)
    whole = values.ndim == 1 and values.dtype.kind in "iub"
    return torch.from_numpy(values.astype(np.int64 if whole else np.float32))


def row_index(batch: dict, media: list[int], held: int, counts: list[int], paired: Samples) -> dict[str, torch.Tensor]:
    """media_index or context_index, where it is not 0..B-1; `media`: the row of its media for each sample."""
    rows = next((len(batch[key]) for key in MEDIA_VALUES if key in batch), 0)
    if not rows:
        return {}
    name, times = "context_index", counts
    if paired.contexts is not None:
        name, times = "media_index", [len(texts) for texts in paired.contexts]
    index = np.repeat(media, times) * (rows == held)  # a blank stands for all
    return {} if np.array_equal(index, np.arange(rows)) else {name: torch.from_numpy(index)}


def stacked(name: str, values: list[torch.Tensor]) -> torch.Tensor:
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(f"{name} of ready samples has one shape; got {sorted(shapes)}")
    batch = torch.stack(values)
    return batch.float() if batch.is_floating_point() else batch


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
    train: bool,
    max_length: int | None,
    padding_side: str,
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
        batch = _padded(rows, tokenizer, padding_side, max_length, pad_to_multiple_of)
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
