"""A file of results that grows line by line: a killed command goes on after its last whole line.

captions.jsonl             a JSON object a line: {"path": ..., ...}, or {"path": ..., "error": ...}
.captions.jsonl.run.json   what the lines were made with
captions.jsonl.part0       the lines of the first of several processes, until each file has one; then they are joined
"""

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from ..processing.images.limits import MediaDecodeError
from .printing import printable

_One = TypeVar("_One", Path, str)
KEYS = {"path": "files", "query": "queries"}  # what a line of JSON is of, and what several are called
_FREE = ("batch_size", "workers", "device")  # how the work is done: nothing that is found depends on them


def note_of(path: Path) -> Path:
    """The file that says what the lines of a file were made with."""
    return path.with_name(f".{path.name.lstrip('.')}.run.json")


def settings_kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them, without those that results do not depend on."""
    kept = {name: value for name, value in settings.items() if name not in _FREE}
    return json.loads(json.dumps(kept, default=str))


def check_new(path: str | os.PathLike | None, option: str) -> None:
    """Raises ValueError for a file that is there already, and a folder that holds something; None is no output."""
    if path is None:
        return
    there = Path(path)
    if there.is_dir() and any(there.iterdir()):
        raise ValueError(f"{option} {there} is not empty; give a new folder")
    if there.exists() and not there.is_dir():
        raise ValueError(f"{option} {there} is there already; give another name, or remove it")


class Faults:
    """The files of a piece of work that fail, listed on stderr at its end.

    Attributes: files: how many there are. faults: (path, reason) of those that failed. key: what a line of JSON calls
    that which it is of, one of KEYS.
    """

    def __init__(self, files: int, key: str = "path"):
        self.files, self.key = files, key
        self.faults: list[tuple[str, str]] = []

    def fail(self, path: str, reason: str) -> None:
        self.faults.append((path, reason))

    def close(self, complete: bool) -> None:
        tell_faults(self.faults, len(self.faults), self.files, KEYS[self.key])

    @property
    def all_read(self) -> bool:
        """Whether none failed; True in one of several processes, as torchrun ends the others, or starts all again,
        where one ends with a code."""
        return not self.faults or processes()[1] > 1


class Results(Faults):
    """Lines of results in a file.

    Args:
        path: the file. settings: what the results depend on; a run goes on only with the same.
        resume: go on after the lines of an earlier run; False: the file must be new.
        key: of `Faults`.

    Attributes:
        done: the paths that have a line already.

    Raises: ValueError for a file that is there, one of other settings, or one that holds something else.
    """

    def __init__(self, path: str | os.PathLike, settings: Mapping[str, Any], resume: bool = False, key: str = "path"):
        super().__init__(0, key)
        self.path, self.note = Path(path), note_of(Path(path))
        self.done: set[str] = set()
        held = settings_kept(settings)
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
                path = held[self.key]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"--resume: line {number} of {self.path} is no result of mm") from None
            self.done.add(path)
            if "error" in held:
                self.faults.append((path, held["error"]))

    def write(self, path: str, **values: Any) -> None:
        """A line, on its way to the disk when this returns."""
        self._file.write(json.dumps({self.key: path, **values}, ensure_ascii=True) + "\n")
        self._file.flush()
        self.done.add(path)

    def fail(self, path: str, reason: str) -> None:
        super().fail(path, reason)
        self.write(path, error=reason)

    def close(self, complete: bool) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
        if complete:
            tell_faults(self.faults, len(self.faults), len(self.done), KEYS[self.key])


def check_settings(note: Path, settings: Mapping[str, Any], output: str) -> None:
    """Raises ValueError where the settings that an earlier run left in the file `note` are others than these."""
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none, or the kill came while it was written, before any result
        return
    other = [name for name in sorted({*before, *settings}) if before.get(name) != settings.get(name)]
    if other:
        told = ", ".join(f"{name} was {before.get(name)!r} and is {settings.get(name)!r}" for name in other)
        raise ValueError(f"--resume: {output} was made with other settings: {told}; give another --output")


class SharedResults(Results):
    """The results of one of several processes over the same files: lines of its own in `path`.part<rank>. The process
    that finds a line for every file joins them in `path`, in the order of the files, each once.

    Args:
        names: of all files, the same in all processes. rank, size: this process, and how many there are.

    Attributes:
        names: those of this process that no process has done. faults: of all files, in the process that joined.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], resume: bool, names: Sequence[str], rank: int, size: int,
        key: str = "path",
    ):  # fmt: skip
        self.output, self.all_names = Path(path), list(dict.fromkeys(names))
        if self.output.exists() and not resume:
            raise ValueError(f"--output {path} is there already; --resume goes on with it")
        joined = _lines_of(self.output, key)  # stays as it is until this process, too, is done
        self.settings = settings_kept(settings)
        if joined:
            check_settings(note_of(self.output), self.settings, str(path))
        super().__init__(f"{os.fspath(path)}.part{rank}", {**settings, "processes": size}, resume, key)
        parts = {name for part in _parts(self.output) for name in _lines_of(part, key)}
        self.names = [name for name in self.all_names if name not in joined][rank::size]
        self.names = [name for name in self.names if name not in parts]

    def close(self, complete: bool) -> None:
        super().close(False)
        self.faults = []
        if complete:
            with Path(f"{self.output}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._join()
            tell_faults(self.faults, len(self.faults), len(self.done), KEYS[self.key])

    def _join(self) -> None:
        parts = _parts(self.output)
        found = _lines_of(self.output, self.key)
        for part in parts:
            found |= _lines_of(part, self.key)
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
        note_of(self.output).write_text(json.dumps(self.settings) + "\n", encoding="utf-8")
        for part in parts:
            part.unlink()
            note_of(part).unlink(missing_ok=True)
        Path(f"{self.output}.lock").unlink(missing_ok=True)
        held = [json.loads(found[name]) for name in self.all_names]
        self.faults = [(line[self.key], line["error"]) for line in held if "error" in line]
        self.done = {*found}


def processes() -> tuple[int, int]:
    """The number of this process and how many there are, under torchrun or with its RANK and WORLD_SIZE set."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def open_results(
    output: Path | None, settings: Mapping[str, Any], resume: bool, files: list[_One], key: str = "path"
) -> tuple[Faults, list[_One]]:
    """Where the results of `files` (or texts) go, and which of them this process is to do. Without an output only
    their faults are kept. key: of `Faults`."""
    rank, size = processes()
    if output is None:
        if resume or size > 1:
            why = "--resume goes on with the file of --output" if resume else f"{size} processes write into --output"
            raise ValueError(f"{why}; give one")
        return Faults(len(files), key), files
    if size > 1:
        named = {str(path): path for path in files}
        shared = SharedResults(output, settings, resume, [*named], rank, size, key)
        return shared, [named[name] for name in shared.names]
    if parts := _parts(Path(output)):
        raise ValueError(f"--output {output} was begun by several processes ({parts[0].name}); go on with as many")
    results = Results(output, settings, resume, key)
    return results, [path for path in dict.fromkeys(files) if str(path) not in results.done]


def keep(
    results: Faults, files: Sequence[Any], found: Iterable[tuple[int, Any]], held: Callable[[Any], dict[str, Any]],
    tell: Callable[[Any, Any], None],
) -> bool:  # fmt: skip
    """Writes what was found of each file into the results' file, or tells it, as it comes; lists faults at the end.

    Args:
        found: (number of a file, what was found, or the MediaDecodeError of one that cannot be read): `in_batches`.
        held: of what was found, the values of its line of JSON. tell: says it, where there is no file of results.

    Returns: whether every file could be read.
    """
    complete = False
    try:
        for number, one in _bar(found, len(files), results.key):
            if isinstance(one, MediaDecodeError):
                results.fail(str(files[number]), str(one))
            elif isinstance(results, Results):
                results.write(str(files[number]), **held(one))
            else:
                with tqdm.external_write_mode(sys.stdout):  # above the bar
                    tell(files[number], one)
        complete = True
    finally:
        results.close(complete)
    return results.all_read


def _bar(found: Iterable[tuple[int, Any]], files: int, key: str) -> Iterable[tuple[int, Any]]:
    """What was found, with a bar on stderr where somebody sees it and there are several."""
    return tqdm(found, total=files, unit=f" {KEYS[key]}", disable=None if files > 1 else True)


def tell_faults(faults: Iterable[tuple[str, str]], number: int, files: int, what: str = "files") -> None:
    """Lists the `number` of files that failed, (path, reason) each, on stderr; of a single file only the reason."""
    if number and files > 1:
        sys.stderr.write(f"mm: {number} of {files} {what} cannot be read:\n")
    for path, reason in faults:
        told = reason if Path(path).name in reason else f"{path}: {reason}"
        sys.stderr.write(f"{'  ' if files > 1 else 'mm: '}{printable(told, sys.stderr)}\n")


def _parts(output: Path) -> list[Path]:
    start = f"{output.name}.part"
    names = os.listdir(output.parent) if output.parent.is_dir() else []
    return [
        output.with_name(name) for name in sorted(names) if name.startswith(start) and name[len(start) :].isdigit()
    ]


def _lines_of(path: Path, key: str) -> dict[str, str]:
    """The whole lines of a file of results, by what each is of."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:  # never begun, or joined by another process
        return {}
    lines = text[: text.rfind(b"\n") + 1].decode("utf-8").splitlines()
    return {json.loads(line)[key]: line for line in lines}
