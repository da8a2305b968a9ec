"""Data sets of the `datasets` library: by name, from a folder that it saved, or opened; whole or streamed.

Media columns are read without decoding, so that the processor gets the bytes of the file.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from ..processing.columns import renamed
from .dataset import MMDataset, build
from .labels import numbered, places_of
from .sources import InTable
from .tables import Names, table_rows


class MMStream(IterableDataset):
    """A streaming data set of `datasets` as samples under MM's column names. set_epoch and shards are its own."""

    def __init__(self, stream: Any, columns: Mapping[str, str | None] | None = None):
        self.stream, self.columns, self.names = stream, dict(columns or {}), Names(None, "the stream")

    def set_epoch(self, epoch: int) -> None:
        self.stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, sample in enumerate(self.stream):
            sample = self.names.read(renamed([sample], self.columns)[0])
            yield {"id": str(sample.get("id", number)), **sample}


def read_datasets(
    source: Any, media=None, *, split: str | None = None, columns=None, on_error="raise", group=True, streaming=False,
    **settings: Any,
) -> MMDataset | MMStream:  # fmt: skip
    """A Dataset or IterableDataset, a folder of `save_to_disk`, or the name of a data set of the Hub.

    settings: of `datasets.load_dataset` (name, revision, data_dir, token, ...). Raises ValueError where there are
    several splits and none is named.
    """
    try:
        import datasets
    except ModuleNotFoundError as fault:
        raise ModuleNotFoundError("this needs the datasets library: pip install '.[data]' in the checkout") from fault
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
    if isinstance(source, (str, os.PathLike)):
        source = name
        if Path(source).is_dir() and not settings:
            source = datasets.load_from_disk(source)
        else:
            source = datasets.load_dataset(source, split=split, streaming=streaming, **settings)
    if isinstance(source, dict):  # DatasetDict and IterableDatasetDict
        if split is None and len(source) > 1:
            raise ValueError(f"{name} has the splits {sorted(source)}; say split=")
        if split is not None and split not in source:
            raise ValueError(f"split={split!r}; {name} has {sorted(source)}")
        source = source[split] if split is not None else next(iter(source.values()))
    source = undecoded(source, datasets)
    if isinstance(source, datasets.IterableDataset):
        return MMStream(source, columns)
    if not isinstance(source, datasets.Dataset):
        raise TypeError(f"a Dataset, an IterableDataset, a folder or a name is wanted; got {type(source).__name__}")
    theirs = next((theirs for theirs, ours in (columns or {}).items() if ours == "label"), "label")
    names = _class_names(source.features.get(theirs), datasets)
    lines = ((f"row {number}", dict(_lazy(source, number, dict(line)))) for number, line in enumerate(source))
    if names is not None:
        lines = ((where, _named(line, theirs, names)) for where, line in lines)
    rows = table_rows(lines, columns, source=name)
    data = build(rows, source=name, format="datasets", folder=None, on_error=on_error, group=group)
    data.label_names = data.label_names if names is None else names
    return data


def _class_names(feature: Any, datasets: Any) -> list[str] | None:
    """The class names that the data set has itself, of one class or several of each row."""
    feature = feature.feature if isinstance(feature, datasets.List) else feature
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


def _named(line: dict[str, Any], column: str, names: list[str]) -> dict[str, Any]:
    """The line with several classes as a vector over `names`; one class is its number already."""
    label = line.get(column)
    if not isinstance(label, list):
        return line
    return {**line, column: numbered(label, places_of(names))}


def _lazy(table: Any, number: int, line: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A line with its media left in the table."""
    for column, value in line.items():
        if _is_medium(value):
            yield column, InTable(table, number, column, None, _name(value))
        elif isinstance(value, list) and value and all(map(_is_medium, value)):
            yield column, [InTable(table, number, column, i, _name(one)) for i, one in enumerate(value)]
        else:
            yield column, value


def _is_medium(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"bytes", "path"} and (value["bytes"] or value["path"])


def _name(value: Mapping[str, Any]) -> str:
    return value["path"] if value["bytes"] is None else hashlib.sha256(value["bytes"]).hexdigest()


def undecoded(dataset: Any, datasets: Any) -> Any:
    """The data set with its pictures, sounds and videos as bytes or paths."""
    kinds = tuple(kind for kind in (datasets.Image, datasets.Audio, getattr(datasets, "Video", None)) if kind)
    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, kinds):
            dataset = dataset.cast_column(name, type(feature)(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, kinds):
            dataset = dataset.cast_column(name, datasets.List(type(feature.feature)(decode=False)))
    return dataset
