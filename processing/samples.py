"""The columns of raw samples, and of those that are ready: read, checked and brought together. R rows, L labels."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

# The columns of a sample that hold one medium and several, by the name of the processor's argument.
MEDIA_OF = {"images": ("image", "images"), "videos": ("video", "videos"), "audio": ("audio", "audios")}


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
    """A column of texts nested like the context texts of each sample: a list beside a single one is its rows."""
    values = column(samples, name)
    return values and [
        list(value) if isinstance(context, (list, tuple)) and isinstance(value, (list, tuple)) else [value]
        for context, value in zip(contexts, values, strict=True)
    ]


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


def stacked(name: str, values: list[torch.Tensor]) -> torch.Tensor:
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(f"{name} of ready samples has one shape; got {sorted(shapes)}")
    batch = torch.stack(values)
    return batch.float() if batch.is_floating_point() else batch
