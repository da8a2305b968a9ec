"""Journals of an index that is being made: a line for each batch of vectors, on the disk as soon as it is encoded.

journal.jsonl         of one process
journal.jsonl.part0   of the first of several, whose last line, when its share is done, says what its files were
"""

import base64
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

JOURNAL = "journal.jsonl"
Content = tuple[str, str]  # a file's kind and its SHA-256: of one content, a video and a sound are encoded apart


def append_line(file: BinaryIO, maker: str, contents: list[Content], vectors: np.ndarray) -> None:
    """Vectors float32 (n, P) of n contents, made by the model of the hash `maker`."""
    text = base64.b64encode(vectors.tobytes()).decode("ascii")
    _append(file, {"model_hash": maker, "contents": contents, "float32": text})


def append_end(path: Path, values: Mapping[str, Any]) -> None:
    """The last line of a part."""
    with path.open("ab") as file:
        _append(file, {"end": dict(values)})


def _append(file: BinaryIO, line: Mapping[str, Any]) -> None:
    file.write(json.dumps(line).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def parts_of(output: Path) -> list[Path]:
    """Journals of several processes, by their numbers."""
    start = f"{JOURNAL}.part"
    numbers = [path.name.removeprefix(start) for path in output.glob(f"{start}*")]
    return [output / f"{start}{number}" for number in sorted(int(one) for one in numbers if one.isdigit())]


def end_of(path: Path) -> dict[str, Any] | None:
    """What the last line of a part says; None where its share is not done."""
    try:
        return dict(json.loads(path.read_bytes().splitlines()[-1])["end"])
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return None


def lines_of(path: Path, repair: bool) -> Iterator[tuple[str, list[Content], np.ndarray]]:
    """(hash of the model, contents, vectors) of each line up to the first that a kill cut or a disk spoiled, or to the
    end of a part; repair: that and what follows is taken off."""
    if not path.exists():
        return
    text, place = path.read_bytes(), 0
    while place < len(text):
        end, found = text.find(b"\n", place) + 1, None
        try:
            line = json.loads(text[place : end or None])
            contents: list[Content] = [(str(kind), str(digest)) for kind, digest in line["contents"]]
            rows = np.frombuffer(base64.b64decode(line["float32"], validate=True), np.float32)
            found = str(line["model_hash"]), contents, rows.reshape(len(contents), -1)
        except (ValueError, KeyError, TypeError):
            pass
        if not end or found is None:
            if repair:
                os.truncate(path, place)
            return
        yield found
        place = end
