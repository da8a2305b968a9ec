"""Tables: JSON Lines, JSON lists, CSV, TSV and Parquet, one text (or label) of a picture in each line.

Columns have the names that MMDataCollator reads (image, text, suffix, label, id, ...), or one of ALIASES, or `columns`
says which they are: {"photo": "image", "words": "suffix"}. Others are kept beside the sample and left aside by the
collator.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..processing.columns import check_columns, either_way, likely
from ..processing.media_kinds import column_of
from .captions import folder_of, refuse_split
from .dataset import MMDataset, Row, build, media_of
from .errors import DataError
from .json_files import csv_lines, is_json_lines, json_lines, read_json
from .sources import MEDIA

KNOWN = (*MEDIA, "text", "suffix", "label", "answers", "id")
TEXTS = {"text", "suffix", "label"}
TABULAR = ("tabular", "time_series", "timeseries", "series", "vitals", "features")


def read_table(
    path, media=None, *, split=None, columns: Mapping[str, str | None] | None = None, on_error="raise", group=True
) -> MMDataset:
    """A table by its ending: .jsonl, .ndjson, .json (a list of objects), .csv, .tsv, .parquet.

    A value is what stands in the file: "2020-01-01", "None" and "000123" of a CSV stay texts. Under "label" a CSV's
    whole numbers are numbers and other words are class names (`label_names`). A list under "label" is several classes.
    """
    refuse_split(split, "a table", path)
    folder = folder_of(media, path)
    rows = table_rows(table_lines(path), columns, from_text=_is_csv(path), source=str(path))
    ending = Path(path).suffix.lower().removeprefix(".") or "csv"
    return build(rows, source=str(path), format=ending, folder=folder, on_error=on_error, group=group)


def _is_csv(path) -> bool:
    return Path(path).suffix.lower() in (".csv", ".tsv", ".txt")


def table_lines(path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, line) of each line of a table."""
    ending = Path(path).suffix.lower()
    if ending in (".jsonl", ".ndjson") or (ending == ".json" and is_json_lines(path)):
        yield from json_lines(path)
    elif ending == ".json":
        held = read_json(path)
        if not isinstance(held, list):
            raise DataError(f"{path}: a list of objects is wanted; got {type(held).__name__}")
        for number, line in enumerate(held):
            where = f"{os.path.basename(path)}, object {number}"
            if not isinstance(line, dict):
                raise DataError(f"{where}: an object is wanted; got {line!r:.60}")
            yield where, line
    elif ending == ".parquet":
        yield from _parquet_lines(path)
    elif _is_csv(path):
        yield from csv_lines(path, "\t" if ending == ".tsv" else None)
    else:
        raise DataError(f"{path}: accepted endings of tables are .jsonl, .ndjson, .json, .csv, .tsv and .parquet")


def _parquet_lines(path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as fault:
        raise ModuleNotFoundError("Parquet needs pyarrow: pip install '.[data]' in the checkout") from fault
    number = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1000):
            for line in batch.to_pylist():
                yield f"{os.path.basename(path)}, row {number}", line
                number += 1


def table_rows(
    lines, columns: Mapping[str, str | None] | None, *, from_text: bool = False, source: str = ""
) -> Iterator[Row]:
    """The rows of lines under MM's column names."""
    names = Names(columns, source)
    for number, (where, line) in enumerate(lines):
        line = names.read(line)
        is_bare = not line.keys() & TEXTS
        media = {name: line.pop(name) for name in MEDIA if name in line}
        media = {name: value for name, value in media.items() if value is not None and value != "" and value != []}
        values = {name: line.pop(name) for name in ("text", "suffix", "label", "answers") if name in line}
        if values.get("label", "") is None:
            del values["label"]
        if from_text and "label" in values:
            values["label"] = _number_or_word(values["label"])
        texts = values.get("suffix")
        key = str(line.pop("id", number))
        if isinstance(texts, list):  # all captions of a picture in one line
            for place, text in enumerate(texts):
                own = {**values, "suffix": text}
                if isinstance(values.get("text"), list):
                    own["text"] = values["text"][place] if place < len(values["text"]) else None
                yield Row(f"{where}, text {place}", f"{key}-{place}", media, own, line)
        else:
            held = ", ".join([*media, *line]) or "nothing"
            fault = f"it holds {held}, and no text, suffix or label" if is_bare else ""
            yield Row(where, key, media, values, line, fault)
    names.check()


# What columns of other names are read as, where `columns` does not name them and none has MM's own name.
FILE = "image, video or audio"  # by the ending of what is in it
OF_MEDIA = ("file_name", "file_names", "image_path")
ALIASES = {
    "suffix": ("caption", "captions", "answer"),
    "text": ("question",),
    FILE: (*OF_MEDIA, "filename", "file", "file_path", "filepath", "path"),
}


class Names:
    """MM's names of the columns of a table, whose lines may have other columns each.

    Args:
        columns: what the caller says; None drops a column. source: the table, for errors.
    """

    def __init__(self, columns: Mapping[str, str | None] | None, source: str):
        self.columns, self.source = check_columns(columns, KNOWN), source
        self.known: dict[tuple[str, ...], dict[str, str | None]] = {}
        self.lines = 0

    def read(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """A line under MM's names. Raises DataError for a column that could be two things, or is tabular data."""
        self.lines += 1
        names = self.known.get(tuple(line))
        if names is None:
            names = self.known[tuple(line)] = self._names(line)
        found = {}
        for theirs, value in line.items():
            ours = names[theirs]
            if ours is not None:
                found[_of_file(theirs, value) if ours == FILE else ours] = value
        return found

    def _names(self, line: Mapping[str, Any]) -> dict[str, str | None]:
        if found := [name for name in line if name.lower() in TABULAR and name not in self.columns]:
            raise DataError(
                f"{self.source}: column {found[0]!r} looks like tabular data or a time series, which is no modality "
                "of MM: write it as text, or leave it aside with columns={...: None}"
            )
        names = {name: self.columns.get(name, name) for name in line}
        held = {*names.values()}
        for ours, others in ALIASES.items():
            found = [name for name in line if name not in self.columns and name.lower() in others]
            if ours == "text" and not {*names.values()} & {"suffix", "label", "answers"}:
                continue  # a question without an answer is no text to learn
            if not found or held & ({*MEDIA} if ours == FILE else {ours}):
                continue
            if len(found) > 1:
                meant = {"suffix": "the text to learn", "text": "the text before it", FILE: "the file"}[ours]
                way = either_way({found[0]: "image" if ours == FILE else ours})
                raise DataError(f"{self.source}: each of the columns {found} could be {meant}; say which: {way}")
            names[found[0]] = ours
        return names

    def check(self) -> None:
        """DataError where `columns` names a column of no line, or no line has anything that is known."""
        theirs = list(dict.fromkeys(name for line in self.known for name in line))
        if missing := [name for name in self.columns if name not in theirs]:
            if self.lines:
                raise DataError(f"{self.source}: columns names {missing}, but the columns are {theirs}")
        ours = {name for names in self.known.values() for name in names.values()}
        if self.lines and not ours & {*KNOWN, FILE} - {"id"}:
            guess = likely(theirs)
            hint = f"; say which is which: {either_way(guess)}" if guess else ""
            raise DataError(f"{self.source}: none of the columns {theirs} is one of {KNOWN}{hint}")
        if self.lines and not ours & TEXTS:
            guess = {name: own for name, own in likely({*theirs} - {*KNOWN}).items() if own not in MEDIA}
            hint = f"; say {either_way(guess)}" if guess else ""
            raise DataError(
                f"{self.source}: no line holds a text or a label (text, suffix, label); the columns are {theirs}{hint}"
            )


def _of_file(theirs: str, value: Any) -> str:
    """The column of a file, or of several, by the ending of the first name. What is no medium, such as the path of a
    text, stays under its own name, if that does not say that it is one."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, str) and column_of(first) is None and theirs.lower() not in OF_MEDIA:
        return theirs
    kind = next(iter(media_of(first))) if isinstance(first, str) else "image"
    return f"{kind}s" if isinstance(value, list) else kind


def _number_or_word(text: Any) -> Any:
    is_number = isinstance(text, str) and text.isascii() and text.isdigit() and str(int(text)) == text
    return int(text) if is_number else text
