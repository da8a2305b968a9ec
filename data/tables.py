"""Tables: JSON Lines, JSON lists, CSV, TSV and Parquet, one text (or label) of a picture in each line.

Columns have the names that MMDataCollator reads (image, text, suffix, label, id, ...), or `columns` says which they
are: {"file": "image", "caption": "suffix"}. Others are kept beside the sample and left aside by the collator.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..processing.columns import check_columns, either_way, likely
from .captions import folder_of, refuse_split
from .dataset import MMDataset, Row, build
from .errors import DataError
from .json_files import csv_lines, is_json_lines, json_lines, read_json
from .sources import MEDIA

KNOWN = (*MEDIA, "text", "suffix", "label", "answers", "id")
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
    columns = check_columns(columns, KNOWN)
    for number, (where, line) in enumerate(lines):
        if number == 0:
            check_table_columns(line, columns, source)
        kept = {name: columns.get(name, name) for name in line}  # None: columns says to leave it aside
        line = {ours: line[theirs] for theirs, ours in kept.items() if ours is not None}
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
            yield Row(where, key, media, values, line)


def _number_or_word(text: Any) -> Any:
    is_number = isinstance(text, str) and text.isascii() and text.isdigit() and str(int(text)) == text
    return int(text) if is_number else text


def check_table_columns(line: Mapping[str, Any], columns: Mapping[str, str | None], source: str) -> None:
    """DataError where `columns` names a missing column, or nothing in a line is known."""
    if missing := [name for name in columns if name not in line]:
        raise DataError(f"{source}: columns names {missing}, but the columns are {list(line)}")
    held = {columns.get(name, name) for name in line}
    if found := [name for name in line if name.lower() in TABULAR and name not in columns]:
        raise DataError(
            f"{source}: column {found[0]!r} looks like tabular data or a time series, which is no modality of MM: "
            "write it as text, or leave it aside with columns={...: None}"
        )
    if not held & set(KNOWN) - {"id"}:
        guess = likely(line)
        hint = f"; say which is which: {either_way(guess)}" if guess else ""
        raise DataError(f"{source}: none of the columns {list(line)} is one of {KNOWN}{hint}")
    if not held & {"text", "suffix", "label"}:
        guess = {theirs: ours for theirs, ours in likely(set(line) - set(KNOWN)).items() if ours not in MEDIA}
        hint = f"; say {either_way(guess)}" if guess else ""
        raise DataError(f"{source}: the columns {list(line)} hold no text, suffix or label{hint}")
