"""MMDataset: samples for MMDataCollator, read from somebody's files, and a report of what was read and what was not.

    rows of an annotation file ──► media found, texts checked ──► one sample per picture, with all its texts

A sample is {"id", "image" | "images" | "video" | "audio", "text", "suffix", "label", ...}: the columns that
`MMDataCollator` reads, and others that it leaves aside ("answers", "row_ids"). Media are paths or bytes, and stay so
until the processor reads them.
"""

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..processing.call_options import check_choice
from ..processing.media_kinds import column_of
from .errors import DataError
from .labels import class_names, numbered, places_of
from .media_folder import NOT_FILES, MediaFolder
from .rows import has_texts, row_ids, rows_of
from .sources import MEDIA, InTable, content, media_names, opened
from .splits import split_samples

SHOWN = 5  # how many of the faults an error names


@dataclass
class Row:
    """One text (or label) and its media, as an annotation file gives them."""

    where: str  # "captions.json, annotation 17": for errors
    id: str
    media: Mapping[str, Any]  # {"image": "a.jpg"}: names in the media folder, or bytes; {} for a text alone
    values: Mapping[str, Any]  # {"text": ..., "suffix": ..., "label": ..., "answers": [...]}
    beside: Mapping[str, Any] = field(default_factory=dict)  # other columns, of the picture
    fault: str = ""  # why the row can make no sample


@dataclass
class DataReport:
    """What was read, compared with what exists.

    rows: lines, annotations or questions that were read; media: different pictures, videos and sounds among them;
    unused: media files in the folder that no row names; without_rows: media that the annotations list without a text;
    left_out: (where, reason) of every row that makes no sample.
    """

    source: str
    format: str
    rows: int = 0
    samples: int = 0
    media: int = 0
    unused: list[str] = field(default_factory=list)
    without_rows: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        told = [f"{self.source} ({self.format}): {self.rows} rows, {self.media} media, {self.samples} samples"]
        if self.left_out:
            told.append(f"{rows_left_out(len(self.left_out))}; {self._first_faults()}")
        if self.without_rows:
            told.append(f"{len(self.without_rows)} media without a text ({_some(self.without_rows)})")
        if self.unused:
            files = "1 media file" if len(self.unused) == 1 else f"{len(self.unused)} media files"
            told.append(f"{files} that no row names ({_some(self.unused)})")
        return "; ".join(told)

    def _first_faults(self) -> str:
        faults = [f"{where}: {reason}" for where, reason in self.left_out[:SHOWN]]
        more = len(self.left_out) - len(faults)
        return "; ".join(faults) + (f"; and {more} more" if more else "")


def rows_left_out(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'} left out"


class MMDataset(Dataset):
    """A list of samples with a report.

    samples: dicts, as they are given to the collator. report: a DataReport. label_names: the class names that the
    numbers under "label" stand for, or the places of a vector where a row has several classes; None where labels were
    numbers already or there are none. root: the folder that paths of media begin at.
    """

    def __init__(
        self,
        samples: list[dict[str, Any]],
        report: DataReport,
        label_names: list[str] | None = None,
        root: str | os.PathLike | None = None,
    ):
        self.samples, self.report, self.label_names = samples, report, label_names
        self.root = None if root is None else Path(root)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = dict(self.samples[index])
        for name in MEDIA:
            if name in sample:
                sample[name] = opened(sample[name])
        return sample

    def __repr__(self) -> str:
        return f"MMDataset({self.report})"

    def split(self, *, seed: int = 0, by: str = "name", **shares: float) -> dict[str, "MMDataset"]:
        """Parts by a hash of the media, so that no picture is in two of them, whatever is added or removed later.

            parts = dataset.split(train=0.8, dev=0.1, test=0.1)

        by: "name" hashes the path of a medium within its folder, "bytes" what it holds (copies under other names stay
        together; reads every file). Samples that share a picture with another one stay with it. A text without media
        goes by its id.
        """
        parts = split_samples(self.samples, self.root, shares, seed, by)
        return {name: self._part(name, samples) for name, samples in parts.items()}

    def _part(self, name: str, samples: list[dict]) -> "MMDataset":
        media = {key for sample in samples for key in media_names(sample)}
        rows = sum(len(row_ids(sample)) for sample in samples)
        report = DataReport(f"{self.report.source}, part {name!r}", self.report.format, rows, len(samples), len(media))
        return MMDataset(samples, report, self.label_names, self.root)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all samples whatever their order: the bytes of their media, their texts and labels.

        The same data read from two formats have the same fingerprint. Names, ids and other columns do not count.
        """
        return fingerprint(self.samples)


def fingerprint(samples: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 (hex) of samples whatever their order; see `MMDataset.fingerprint`."""
    found = sorted(digest for sample in samples for digest in _row_digests(sample))
    return hashlib.sha256("".join(found).encode()).hexdigest()


def _row_digests(sample: Mapping[str, Any]) -> Iterator[str]:
    media = [hashlib.sha256(content(source)).hexdigest() for source in media_names(sample)]
    for row in rows_of(sample):
        values = {name: row[name] for name in ("text", "suffix", "label", "chat") if name in row}
        yield hashlib.sha256(repr((media, sorted(values.items()))).encode()).hexdigest()


class OwnNames:
    """Gives each thing a name of its own: "7" comes again as "7 (2)". Some tools number the captions of each picture
    from 0, and two folders may have a picture of one name; a result is found by its id."""

    def __init__(self):
        self.given: dict[str, int] = {}

    def of(self, name: str) -> str:
        own = name
        while own in self.given:
            self.given[name] += 1
            own = f"{name} ({self.given[name]})"
        self.given[own] = 1
        return own


def build(
    rows: Iterable[Row],
    *,
    source: str,
    format: str,
    folder: MediaFolder | None,
    on_error: str = "raise",
    group: bool = True,
    without_rows: Iterable[str] = (),
) -> MMDataset:
    """The data set of the rows of an annotation file.

    on_error: "raise" a DataError that counts the faulty rows and names the first, or "skip" them, with one warning and
    all of them in the report. group: rows with the same media become one sample with a list of texts.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    report = DataReport(source, format, without_rows=list(without_rows))
    groups: dict[Any, list[tuple[Row, dict]]] = {}
    row_names, names = OwnNames(), OwnNames()
    for number, row in enumerate(rows):
        report.rows += 1
        row = replace(row, id=row_names.of(row.id))
        try:
            if row.fault:
                raise LookupError(row.fault)
            media = _found(row.media, folder)
            check_values(row.values)
        except LookupError as fault:
            report.left_out.append((row.where, str(fault.args[0])))
            continue
        read = row.beside.get("context_text")  # rows that read another text beside the picture stay apart
        key = repr((sorted(media.items()), read)) if media and group and has_texts(row.values) else number
        groups.setdefault(key, []).append((row, media))
    label_names = class_names(
        [row.values["label"] for found in groups.values() for row, _ in found if "label" in row.values]
    )
    places = places_of(label_names)
    samples = [_sample(found, places) for found in groups.values()]
    for sample in samples:
        sample["id"] = names.of(sample["id"])
    report.samples = len(samples)
    report.media = len({repr(name) for sample in samples for name in media_names(sample)})
    report.unused = [] if folder is None else folder.unused()
    _settle(report, on_error)
    return MMDataset(samples, report, label_names, None if folder is None else folder.root)


def _settle(report: DataReport, on_error: str) -> None:
    if report.left_out and on_error == "raise":
        raise DataError(
            f'{report}. Mend the files, or pass on_error="skip" to go without these rows',
            report,
        )
    if not report.samples:
        raise DataError(f"{report}: no sample is left", report)
    if report.left_out:
        warnings.warn(str(report), stacklevel=4)


def _found(media: Mapping[str, Any], folder: MediaFolder | None) -> dict[str, Any]:
    """The media with the paths of their files. Raises LookupError with the reason where one is missing."""
    return {name: _path(value, folder) for name, value in media.items() if value is not None}


def _path(value: Any, folder: MediaFolder | None) -> Any:
    if isinstance(value, list):
        return [_path(one, folder) for one in value]
    if isinstance(value, InTable):
        return value
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, (bytes, bytearray)) and len(value):
        return bytes(value)
    if not isinstance(value, (str, tuple)) or not value:
        raise LookupError(f"a medium is a file's name or bytes; got {_short(value)}")
    names = value if isinstance(value, tuple) else (value,)  # a tuple: names that the file may have
    if folder is None or names[0].startswith(NOT_FILES):
        return names[0]
    return str(folder.root / folder.find(*names))


def check_values(values: Mapping[str, Any]) -> None:
    """Raises LookupError for texts that are no text."""
    for name in ("text", "suffix"):
        if name in values and not isinstance(values[name], str):
            raise LookupError(f"{name} is no text: {_short(values[name])}")
        if name in values and not values[name].strip():
            raise LookupError(f"{name} is empty")


def _sample(found: list[tuple[Row, dict]], places: Mapping[str, int] | None) -> dict[str, Any]:
    first, media = found[0]
    sample: dict[str, Any] = {"id": first.id, **media}
    if media and len(found) > 1:
        sample["id"] = ",".join(str(os.path.basename(name)) for name in media_names(media) if isinstance(name, str))
        sample["id"] = sample["id"] or first.id
    values = [dict(row.values) for row, _ in found]
    for one in values:
        if "label" in one:
            one["label"] = numbered(one["label"], places)
    for name in dict.fromkeys(name for one in values for name in one):
        if not all(name in one for one in values):
            raise DataError(f"{first.where}: {name} is given for some texts of a picture and not for others")
        listed = [one[name] for one in values]
        sample[name] = listed[0] if len(listed) == 1 else listed
    if len(found) > 1:
        sample["row_ids"] = [row.id for row, _ in found]
    return {**first.beside, **sample}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _short(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:80]


def media_of(name: str) -> dict[str, str]:
    """{"image": name}, by the ending of the name; DataError for another file."""
    kind = column_of(name)
    if kind is None:
        raise DataError(f"{name!r} is no picture, video or sound that is known by its ending")
    return {kind: name}
