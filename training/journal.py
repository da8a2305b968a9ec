"""The journal of an evaluation: each batch on a line of its own as it is done, so that a killed run goes on.

The first line says what is evaluated on what; a journal of anything else begins anew.
"""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .predictions import Question, Sample


class Journal:
    """Answers that were made before, and a file for those to come.

    done: the numbers of the samples that need not be read again; skipped: (file, reason) of those among them that
    could not be read.
    """

    def __init__(self, path: str | os.PathLike, header: dict[str, Any]):
        self.path = Path(path)
        self.done: set[int] = set()
        self.skipped: list[tuple[str, str]] = []
        self._held: list[tuple[int, list]] = []
        whole = self._read(header)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not whole:
            self.path.write_text(json.dumps(header) + "\n", encoding="utf-8")
        else:
            with self.path.open("r+b") as file:  # what a kill cut off in the middle of a line
                file.truncate(whole)

    def _read(self, header: dict[str, Any]) -> int:
        """Reads the whole lines of an earlier run; how many bytes they are, 0 for none of the same evaluation."""
        if not self.path.is_file():
            return 0
        held = self.path.read_bytes()
        whole = held[: held.rfind(b"\n") + 1]
        lines = whole.decode("utf-8").split("\n")[:-1]
        try:
            found = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(
                f"{self.path} is broken ({error}); delete it, or begin anew: --fresh, resume=False"
            ) from error
        if not found or found[0] != json.loads(json.dumps(header)):
            return 0
        for line in found[1:]:
            for number, items in line.get("answers", ()):
                self.done.add(number)
                self._held.append((number, [_unpacked(item, number) for item in items]))
            for number, name, reason in line.get("skipped", ()):
                self.done.add(number)
                self.skipped.append((name, reason))
        return len(whole)

    def answers(self) -> list[tuple[int, list]]:
        return list(self._held)

    def add(self, numbered: list[tuple[int, list]]) -> None:
        self._write({"answers": [[number, [_packed(item) for item in items]] for number, items in numbered]})

    def skip(self, sample: Sample, reason: str) -> None:
        self._write({"skipped": [[sample.number, sample.file() or sample.name(), reason]]})

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _packed(item: Any) -> Any:
    """A Question, (Question, logits) or (Sample, image, texts) as JSON; numbers stay the same float32."""
    if isinstance(item, Question):
        label = None if item.label is None else [str(np.asarray(item.label).dtype), np.asarray(item.label).tolist()]
        sure = None if math.isnan(item.confidence) else item.confidence
        return {**asdict(item), "score": None, "confidence": sure, "label": label}
    first, *arrays = item
    if isinstance(first, Sample):
        held = {name: first.columns.get(name) for name in ("id", "text", "suffix")}
        plain = {name: value for name, value in held.items() if _is_text(value)}
        head = {"sample": plain, "group": first.group(), "name": first.name(), "file": first.file()}
    else:
        head = _packed(first)
    return [head, *(np.asarray(array, np.float32).tolist() for array in arrays)]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value))


def _unpacked(held: Any, number: int) -> Any:
    if isinstance(held, dict):
        label = held["label"]
        label = None if label is None else np.asarray(label[1], dtype=label[0])
        sure = float("nan") if held["confidence"] is None else held["confidence"]
        return Question(**{**held, "score": float("nan"), "confidence": sure, "label": label})
    head, *arrays = held
    arrays = [np.asarray(array, np.float32) for array in arrays]
    if "group" in head and "sample" in head and isinstance(head["sample"], dict):
        return (KeptSample(number, head["sample"], head["group"], head["name"], head.get("file", "")), *arrays)
    return (_unpacked(head, number), *arrays)


class KeptSample(Sample):
    """A sample of which only texts and the name of its media were kept."""

    def __init__(self, number: int, columns: dict[str, Any], group: str, name: str, file: str):
        super().__init__(number, columns)
        self._group, self._name, self._file = group, name, file

    def group(self) -> str:
        return self._group

    def name(self) -> str:
        return self._name

    def file(self) -> str:
        return self._file
