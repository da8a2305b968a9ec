"""Media read ahead by other processes, and joined into batches of one shape.

paths ── workers: file ── tensors (1, ...) ── window ─┬─ batches of equal shapes ── the model ─┐
                                                      └─ faults ───────────────────────────────┴─ in their order
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..processing.images.limits import MediaDecodeError
from ..processing.media_kinds import ARGUMENT_OF
from .media_lists import kind_of, other_kind

WINDOW = 8  # batches that wait for others of their shape
MANY = 24  # files for which workers are worth their start


class _Files(Dataset):
    """Tensors of each file, and of its text where there is one for its kind; or the words of its fault."""

    def __init__(
        self, paths: Sequence[Path], processor: Any, kinds: Sequence[str], texts: Mapping[str, dict[str, Any]]
    ):
        self.paths, self.processor, self.kinds, self.texts = paths, processor, kinds, texts

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor] | str:
        path = self.paths[index]
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
    paths: Sequence[Path], processor: Any, kinds: Sequence[str], work: Callable[[dict[str, torch.Tensor], int], list],
    batch_size: int, workers: int | None = None, texts: Mapping[str, dict[str, Any]] | None = None,
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """(number, result) of each file in order; a MediaDecodeError in place of the result of one that cannot be read.

    Args:
        kinds: "image", "video", "audio": what the model reads.
        work: of tensors (B, ...) and B, gives as many results. Batches are of files whose tensors have equal shapes.
        workers: processes that read ahead; 0: none; None: as `default_workers`.
        texts: by kind, one that is read with each file, as `MMProcessor.about` makes it.
    """
    workers = default_workers(len(paths)) if workers is None else workers
    ahead: Any = {"num_workers": 0}
    if workers:
        ahead = {"num_workers": workers, "prefetch_factor": 2 * batch_size, "worker_init_fn": _end_with_parent}
    loader = DataLoader(
        _Files(paths, processor, kinds, texts or {}), batch_size=None, generator=torch.Generator(), **ahead
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
    group: list[tuple[int, dict[str, torch.Tensor]]], work: Callable[..., list], results: dict[int, Any], threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = work({name: torch.cat([read[name] for _, read in group]) for name in group[0][1]}, len(group))
    finally:
        torch.set_num_threads(before)
    results |= {number: result for (number, _), result in zip(group, found, strict=True)}
