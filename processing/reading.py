"""Media read ahead by other processes, and joined into batches of one shape; sounds as stretches of samples.

paths ── workers: file ── tensors (1, ...) ── window ─┬─ batches of equal shapes ── the model ─┐
                                                      └─ faults ───────────────────────────────┴─ in their order
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .images.limits import MediaDecodeError
from .media_kinds import ARGUMENT_OF, column_of, kind_of, other_kind
from .sounds.stream import stream_sound

AHEAD_SECONDS = 60  # of a sound, that a worker reads; a longer one is read on while it is heard
WINDOW = 8  # batches that wait for others of their shape
MANY = 24  # files for which workers are worth their start


class _Files(Dataset):
    """Tensors of each file, and of its text where there is one for its kind; or the words of its fault."""

    def __init__(
        self, paths: Sequence[Path], processor: Any, kinds: Collection[str], texts: Mapping[str, dict[str, Any]],
        check: Callable[[int, Path], str | None] | None,
    ):  # fmt: skip
        self.paths, self.processor, self.kinds, self.texts, self.check = paths, processor, kinds, texts, check

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor] | str:
        found = self._read(self.paths[index])
        fault = None if self.check is None else self.check(index, self.paths[index])
        return found if fault is None else fault

    def _read(self, path: Path) -> dict[str, torch.Tensor] | str:
        kind = kind_of(path)
        if kind not in self.kinds:
            return f"cannot read {path.name}: {other_kind(kind, self.kinds)}"
        try:
            text: dict[str, Any] = {}
            if kind in self.texts:
                text = {**self.texts[kind], "text": [self.texts[kind]["text"]], "add_eos_token": False}
            return dict(self.processor(**{ARGUMENT_OF[kind]: [[path]]}, **text, return_tensors="pt"))
        except MediaDecodeError as error:
            return error.reason
        except OSError as error:
            return f"cannot read {path.name}: {error.strerror or error}"


def default_workers(files: int) -> int:
    """Processes that read: none for few files, or where a process cannot be copied as it is."""
    if files < MANY or not sys.platform.startswith("linux"):
        return 0
    return min(2, os.cpu_count() or 1)


def _threads_beside(workers: int) -> int:
    """Threads of torch beside so many processes that read: more than there are cores for take the time of both."""
    cores = len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), cores - workers))


def _end_with_parent(worker: int) -> None:
    """Has a worker end at once where its parent is killed, and tell nothing of what it cannot hand over any more."""
    sys.excepthook = _of_no_connection
    if sys.platform.startswith("linux"):
        pr_set_pdeathsig = 1  # of linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _of_no_connection(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)


def in_batches(
    paths: Sequence[Path], processor: Any, kinds: Collection[str],
    work: Callable[[dict[str, torch.Tensor], list[int]], Sequence], batch_size: int, workers: int | None = None,
    texts: Mapping[str, dict[str, Any]] | None = None, check: Callable[[int, Path], str | None] | None = None,
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """(number, result) of each file in order; a MediaDecodeError in place of the result of one that cannot be read.

    Args:
        kinds: "image", "video", "audio": what the model reads.
        work: of tensors (B, ...) and the numbers of the B files, gives as many results. Batches are of files whose
            tensors have equal shapes.
        workers: processes that read ahead; 0: none; None: as `default_workers`.
        texts: by kind, one that is read with each file, as `MMProcessor.about` makes it.
        check: of the number and path of a file that has been read, in the process that did: what is wrong with it, if
            anything is.
    """
    workers = default_workers(len(paths)) if workers is None else workers
    ahead: Any = {"num_workers": 0}
    if workers:
        ahead = {"num_workers": workers, "prefetch_factor": 2 * batch_size, "worker_init_fn": _end_with_parent}
    loader = DataLoader(
        _Files(paths, processor, kinds, texts or {}, check), batch_size=None, generator=torch.Generator(), **ahead
    )
    threads = _threads_beside(workers)
    groups: dict[Any, list[tuple[int, dict[str, torch.Tensor]]]] = {}
    results: dict[int, Any] = {}
    told = 0
    for number, read in enumerate(loader):
        if isinstance(read, str):
            results[number] = MediaDecodeError(read)
        else:
            shape = tuple((name, tuple(value.shape)) for name, value in sorted(read.items()))
            groups.setdefault(shape, []).append((number, read))
            if len(groups[shape]) == batch_size:
                _run(groups.pop(shape), work, results, threads)
            elif sum(map(len, groups.values())) >= WINDOW * batch_size:
                _run(groups.pop(next(iter(groups))), work, results, threads)
        while told in results:
            yield told, results.pop(told)
            told += 1
    for group in groups.values():
        _run(group, work, results, threads)
    while told in results:
        yield told, results.pop(told)
        told += 1


def _run(
    group: list[tuple[int, dict[str, torch.Tensor]]],
    work: Callable[..., Sequence],
    results: dict[int, Any],
    threads: int,
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        numbers = [number for number, _ in group]
        found = work({name: torch.cat([read[name] for _, read in group]) for name in group[0][1]}, numbers)
    finally:
        torch.set_num_threads(before)
    results |= {number: result for (number, _), result in zip(group, found, strict=True)}


# ---- sounds --------------------------------------------------------------------------------------------------------


def sounds_ahead(paths: Sequence[Path], rate: int, workers: int | None = None) -> Iterator[Iterator[np.ndarray]]:
    """Stretches float32 (n,) of each file at `rate`, as `stream_sound`; a MediaDecodeError, too, for what is a picture
    or cannot be opened.

    Args:
        workers: processes that read the first AHEAD_SECONDS of the files that come next; as of `in_batches`.
    """
    workers = default_workers(len(paths)) if workers is None else workers
    if not workers:
        yield from (_sound(path, rate) for path in paths)
        return
    ahead: Any = {"num_workers": workers, "worker_init_fn": _end_with_parent, "generator": torch.Generator()}
    read = DataLoader(_Beginnings(paths, rate), batch_size=None, **ahead)
    for path, (samples, is_whole, fault) in zip(paths, read, strict=True):
        yield _from_beginning(path, rate, samples.numpy(), is_whole, fault)


def _sound(path: Path, rate: int) -> Iterator[np.ndarray]:
    if column_of(path.name) == "image":
        raise MediaDecodeError(f"cannot read {path.name}: {other_kind('image', ['audio'])}")
    try:
        yield from stream_sound(path, rate)
    except OSError as error:
        raise MediaDecodeError(f"cannot read {path.name}: {error.strerror or error}") from None


class _Beginnings(Dataset):
    """Of each file the first samples (n,), whether these are all, and what is wrong after them."""

    def __init__(self, paths: Sequence[Path], rate: int):
        self.paths, self.rate = paths, rate

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, bool, str | None]:
        parts, length = [np.zeros(0, np.float32)], 0
        try:
            for stretch in _sound(self.paths[index], self.rate):
                parts.append(stretch)
                length += len(stretch)
                if length >= AHEAD_SECONDS * self.rate:
                    return np.concatenate(parts), False, None
        except MediaDecodeError as error:
            return np.concatenate(parts), True, error.reason
        return np.concatenate(parts), True, None


def _from_beginning(
    path: Path, rate: int, samples: np.ndarray, is_whole: bool, fault: str | None
) -> Iterator[np.ndarray]:
    """All of a file whose beginning another process has read."""
    yield samples
    if fault is not None:
        raise MediaDecodeError(fault)
    left = 0 if is_whole else len(samples)
    for stretch in () if is_whole else _sound(path, rate):
        yield stretch[left:]
        left = max(0, left - len(stretch))
