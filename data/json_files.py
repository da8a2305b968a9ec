"""JSON, JSON Lines and CSV as they are written: no value changes its type, no key is lost, faults name the line."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark. DataError naming the file otherwise."""
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError) as fault:
        raise DataError(f"{path} is not JSON in UTF-8: {fault}") from fault
    except RecursionError:
        raise DataError(f"{path} is nested too deeply to be annotations") from None


def json_lines(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of each line. A line ends at a line feed only: JSON may hold the other ends that Python's
    splitlines knows. Empty lines are passed over."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            where = f"{os.path.basename(path)}, line {number}"
            try:
                value = json.loads(text.decode("utf-8"))
            except (UnicodeDecodeError, ValueError) as fault:
                raise DataError(f"{where}: no JSON in UTF-8 ({fault})") from fault
            if not isinstance(value, dict):
                raise DataError(f"{where}: an object is wanted; got {text.decode('utf-8', 'replace').strip():.80}")
            yield where, value


def is_json_lines(path: str | os.PathLike) -> bool:
    """Whether a file holds an object in each line, whatever its name ends with."""
    with open(path, "rb") as file:
        lines = (line for line in file if line.strip())
        first, second = next(lines, b""), next(lines, None)
    try:
        return second is not None and isinstance(json.loads(first.removeprefix(b"\xef\xbb\xbf").decode("utf-8")), dict)
    except (UnicodeDecodeError, ValueError, RecursionError):
        return False


def csv_lines(
    path: str | os.PathLike, delimiter: str | None = None, names: list[str] | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """(where, row) of each line of a table with a header; every value is the text of its field.

    delimiter: of "," ";" "|" and tab the most frequent one in the header, unless it is given.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        if delimiter is None:
            header = file.readline()
            delimiter = max(",;|\t", key=header.count) if names is None else "\t"
            file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = names if names is not None else [name.strip() for name in next(reader, [])]
            if len(set(header)) < len(header):
                raise DataError(f"{path}: the header {header} names a column twice")
            for cells in reader:
                if not cells:
                    continue
                where = f"{os.path.basename(path)}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise DataError(f"{where}: {len(cells)} values for the {len(header)} columns {header}")
                yield where, dict(zip(header, cells, strict=True))
        except csv.Error as fault:
            raise DataError(f"{path}, line {reader.line_num}: {fault}") from fault
        except UnicodeDecodeError as fault:
            raise DataError(f"{path} is not UTF-8: {fault}") from fault
