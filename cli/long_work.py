"""A file of results that grows line by line: a killed command goes on after its last whole line.

captions.jsonl            a JSON object a line: {"path": ..., ...}, or {"path": ..., "error": ...}
captions.jsonl.run.json   what the lines were made with, until all of them are there
captions.jsonl.part0      the lines of the first of several processes, until each file has one; then they are joined
"""

import fcntl
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .printing import printable


class Results:
    """Lines of results in a file.

    Args:
        path: the file. settings: what the results depend on; a run goes on only with the same.
        resume: go on after the lines of an earlier run; False: the file must be new.

    Attributes:
        done: the paths that have a line already. faults: (path, reason) of those that failed.

    Raises: ValueError for a file that is there, one of other settings, or one that holds something else.
    """

    def __init__(self, path: str | os.PathLike, settings: Mapping[str, Any], resume: bool = False):
        self.path, self.note = Path(path), Path(f"{os.fspath(path)}.run.json")
        self.done: set[str] = set()
        self.faults: list[tuple[str, str]] = []
        held = json.loads(json.dumps(dict(settings), default=str))
        if self.path.is_dir():
            raise ValueError(f"--output {self.path} is a folder; give a file")
        if self.path.exists():
            if not resume:
                raise ValueError(f"--output {self.path} is there already; --resume goes on with it")
            check_settings(self.note, held, str(self.path))
            self._read()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.note.write_text(json.dumps(held) + "\n", encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def _read(self) -> None:
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # a kill in the middle of a line
            os.truncate(self.path, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                held = json.loads(line)
                path = held["path"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"--resume: line {number} of {self.path} is no result of mm") from None
            self.done.add(path)
            if "error" in held:
                self.faults.append((path, held["error"]))

    def write(self, path: str, **values: Any) -> None:
        """A line, on its way to the disk when this returns."""
        self._file.write(json.dumps({"path": path, **values}, ensure_ascii=True) + "\n")
        self._file.flush()
        self.done.add(path)

    def fail(self, path: str, reason: str) -> None:
        self.faults.append((path, reason))
        self.write(path, error=reason)

    def close(self, complete: bool) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        if complete:
            self.note.unlink(missing_ok=True)


def check_settings(note: Path, settings: Mapping[str, Any], output: str) -> None:
    """Raises ValueError where the settings that an unfinished run left in the file `note` are others than these."""
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:  # it is complete: files that are new since are added
        return
    except ValueError:  # the kill came while it was written, before any result
        return
    other = [name for name in sorted({*before, *settings}) if before.get(name) != settings.get(name)]
    if other:
        told = ", ".join(f"{name} was {before.get(name)!r} and is {settings.get(name)!r}" for name in other)
        raise ValueError(f"--resume: {output} was begun with other settings: {told}")


class SharedResults(Results):
    """The results of one of several processes over the same files: lines of its own in `path`.part<rank>. The process
    that finds a line for every file joins them in `path`, in the order of the files, each once.

    Args:
        names: of all files, the same in all processes. rank, size: this process, and how many there are.

    Attributes:
        names: those of this process that no process has done. faults: of all files, in the process that joined.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], resume: bool, names: Sequence[str], rank: int, size: int
    ):
        self.output, self.all_names = Path(path), list(dict.fromkeys(names))
        if self.output.exists() and not resume:
            raise ValueError(f"--output {path} is there already; --resume goes on with it")
        joined = _lines_of(self.output)  # stays as it is until this process, too, is done
        super().__init__(f"{os.fspath(path)}.part{rank}", {**settings, "processes": size}, resume)
        parts = {name for part in _parts(self.output) for name in _lines_of(part)}
        self.names = [name for name in self.all_names if name not in joined][rank::size]
        self.names = [name for name in self.names if name not in parts]

    def close(self, complete: bool) -> None:
        super().close(False)  # the settings stay until the parts are joined
        self.faults = []
        if complete:
            with Path(f"{self.output}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._join()

    def _join(self) -> None:
        parts = _parts(self.output)
        found = _lines_of(self.output)
        for part in parts:
            found |= _lines_of(part)
        if not parts or {*self.all_names} - {*found}:
            return  # another process has joined them, or is not done
        ours = {*self.all_names}
        order = [*(name for name in found if name not in ours), *self.all_names]  # with files of earlier runs
        aside = self.output.with_name(f".{self.output.name}.joining")
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(found[name] + "\n" for name in order)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self.output)
        for part in parts:
            part.unlink()
            Path(f"{part}.run.json").unlink(missing_ok=True)
        Path(f"{self.output}.lock").unlink(missing_ok=True)
        held = [json.loads(found[name]) for name in self.all_names]
        self.faults = [(line["path"], line["error"]) for line in held if "error" in line]
        self.done = {*found}


def processes() -> tuple[int, int]:
    """The number of this process and how many there are, under torchrun or with its RANK and WORLD_SIZE set."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def open_results(
    output: Path | None, settings: Mapping[str, Any], resume: bool, files: list[Path]
) -> tuple[Results | None, list[Path]]:
    """Where the results of `files` go, and which of them this process is to do. None: to stdout."""
    rank, size = processes()
    if output is None:
        if resume or size > 1:
            why = "--resume goes on with the file of --output" if resume else f"{size} processes write into --output"
            raise ValueError(f"{why}; give one")
        return None, files
    if size > 1:
        shared = SharedResults(output, settings, resume, [str(path) for path in files], rank, size)
        return shared, [Path(name) for name in shared.names]
    if parts := _parts(Path(output)):
        raise ValueError(f"--output {output} was begun by several processes ({parts[0].name}); go on with as many")
    results = Results(output, settings, resume)
    return results, [path for path in dict.fromkeys(files) if str(path) not in results.done]


def tell_faults(results: Results) -> bool:
    """Lists the files that failed, and returns whether none did; True in one of several processes, as torchrun ends
    the others, or starts all again, where one ends with a code."""
    if results.faults:
        sys.stderr.write(f"mm: {len(results.faults)} of {len(results.done)} files cannot be read:\n")
        for name, reason in results.faults:
            sys.stderr.write(f"  {printable(name, sys.stderr)}: {printable(reason, sys.stderr)}\n")
    return not results.faults or isinstance(results, SharedResults)


def _parts(output: Path) -> list[Path]:
    start = f"{output.name}.part"
    names = os.listdir(output.parent) if output.parent.is_dir() else []
    return [
        output.with_name(name) for name in sorted(names) if name.startswith(start) and name[len(start) :].isdigit()
    ]


def _lines_of(path: Path) -> dict[str, str]:
    """The whole lines of a file of results, by the path that each is of."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:  # never begun, or joined by another process
        return {}
    lines = text[: text.rfind(b"\n") + 1].decode("utf-8").splitlines()
    return {json.loads(line)["path"]: line for line in lines}
