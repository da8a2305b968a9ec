"""Media read ahead by other processes, and joined into batches of one shape; sounds as stretches of samples.

paths ── workers: file ── tensors (1, ...) ── window ─┬─ batches of equal shapes ── the model ─┐
                                                      └─ faults ───────────────────────────────┴─ in their order

Sounds of several windows, or of about one length where the tower hears any, are padded, with a mask.
"""

import ctypes
import math
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from .images.limits import MediaDecodeError
from .media_kinds import ARGUMENT_OF, column_of, kind_of, other_kind
from .sounds.load import window_of
from .sounds.stream import stream_sound

AHEAD_SECONDS = 60  # of a sound, that a worker reads; a longer one is read on while it is heard
WINDOW = 8  # batches that wait for others of their shape
MANY = 24  # files for which workers are worth their start
LONGER = 1.25  # sounds without windows that share a batch are at most so many times as long as each other
TOGETHER = 1 << 24  # numbers of sounds in a batch, with their padding: 17 minutes at 16,000 a second
SOUND, SOUND_MASK = "input_features", "input_features_mask"


Read = tuple[dict[str, torch.Tensor], Any]  # the tensors of a file, and what stands beside them


class _Files(Dataset):
    """Tensors of each file, and of its text where there is one for its kind; or the words of its fault."""

    def __init__(
        self, paths: Sequence[Path], processor: Any, kinds: Collection[str], texts: Mapping[str, dict[str, Any]],
        check: Callable[[int, Path], str | None] | None, beside: Callable[[Path], Any],
    ):  # fmt: skip
        self.paths, self.processor, self.kinds, self.texts = paths, processor, kinds, texts
        self.check, self.beside = check, beside

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Read | str:
        found = self._read(self.paths[index])
        fault = None if self.check is None else self.check(index, self.paths[index])
        return found if fault is None else fault

    def _read(self, path: Path) -> Read | str:
        kind = kind_of(path)
        if kind not in self.kinds:
            return f"cannot read {path.name}: {other_kind(kind, self.kinds)}"
        try:
            text: dict[str, Any] = {}
            if kind in self.texts:
                text = {**self.texts[kind], "text": [self.texts[kind]["text"]], "add_eos_token": False}
            read = dict(self.processor(**{ARGUMENT_OF[kind]: [[path]]}, **text, return_tensors="pt"))
            return read, self.beside(path)
        except MediaDecodeError as error:
            return error.reason
        except OSError as error:
            return f"cannot read {path.name}: {error.strerror or error}"


def default_workers(files: int) -> int:
    """Processes that read: none for few files, or where a process cannot be copied as it is."""
    if files < MANY or not sys.platform.startswith("linux"):
        return 0
    return min(2, os.cpu_count() or 1)


@contextmanager
def beside_workers(workers: int) -> Iterator[None]:
    """Within, torch has as many threads as cores are left beside so many processes that read: more than there are
    cores for take the time of both."""
    cores = len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else os.cpu_count() or 1
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, cores - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    paths: Sequence[Path], processor: Any, kinds: Collection[str], work: Callable[..., Sequence], batch_size: int,
    workers: int | None = None, texts: Mapping[str, dict[str, Any]] | None = None,
    check: Callable[[int, Path], str | None] | None = None, beside: Callable[[Path], Any] | None = None,
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """(number, result) of each file in order; a MediaDecodeError in place of the result of one that cannot be read.

    Args:
        kinds: "image", "video", "audio": what the model reads.
        work: of tensors (B, ...) and the numbers of the B files, gives as many results. Batches are of files whose
            tensors have equal shapes, but for sounds, which a mask pads.
        workers: processes that read ahead; 0: none; None: as `default_workers`.
        texts: by kind, one that is read with each file, as `MMProcessor.about` makes it.
        check: of the number and path of a file that has been read, in the process that did: what is wrong with it, if
            anything is.
        beside: makes something else of the path of a file in that process; work takes a list of these third.
    """
    workers = default_workers(len(paths)) if workers is None else workers
    ahead: Any = {"num_workers": 0}
    if workers:
        ahead = {"num_workers": workers, "prefetch_factor": 2 * batch_size, "worker_init_fn": _end_with_parent}
    files = _Files(paths, processor, kinds, texts or {}, check, beside or _nothing)
    loader = DataLoader(files, batch_size=None, generator=torch.Generator(), collate_fn=_as_it_is, **ahead)
    has_window = window_of(getattr(processor, "feature_extractor", None)) is not None
    run = _Runner(work, workers, beside is not None, has_window)
    groups: dict[Any, list[tuple[int, Read]]] = {}
    results: dict[int, Any] = {}
    told = 0
    for number, read in enumerate(loader):
        if isinstance(read, str):
            results[number] = MediaDecodeError(read)
        else:
            form = _form(read[0], has_window)
            group = groups.setdefault(form, [])
            if group and _sound_numbers([*group, (number, read)]) > TOGETHER:
                results |= run(groups.pop(form))
                group = groups.setdefault(form, [])
            group.append((number, read))
            if len(group) == batch_size:
                results |= run(groups.pop(form))
            elif sum(map(len, groups.values())) >= WINDOW * batch_size:
                results |= run(groups.pop(next(iter(groups))))
        while told in results:
            yield told, results.pop(told)
            told += 1
    for group in groups.values():
        results |= run(group)
    while told in results:
        yield told, results.pop(told)
        told += 1


def _nothing(path: Path) -> None:
    return None


def _as_it_is(read: Any) -> Any:
    """In the place of torch's own, which goes through lists and tuples in search of numbers."""
    return read


class _Runner:
    """Results of a group of files, by their numbers. with_beside: `work` takes what stands beside the tensors, too."""

    def __init__(self, work: Callable[..., Sequence], workers: int, with_beside: bool, has_window: bool):
        self.work, self.workers, self.with_beside, self.has_window = work, workers, with_beside, has_window

    def __call__(self, group: list[tuple[int, Read]]) -> dict[int, Any]:
        numbers, beside = [number for number, _ in group], [read[1] for _, read in group]
        more = [beside] if self.with_beside else []
        with beside_workers(self.workers):
            found = self.work(_joined([read[0] for _, read in group], self.has_window), numbers, *more)
        return dict(zip(numbers, found, strict=True))


def _form(read: Mapping[str, torch.Tensor], has_window: bool) -> tuple:
    """What files of a batch have in common: shapes, of sounds without how many windows or how long they are."""
    shapes = {name: tuple(value.shape) for name, value in read.items()}
    if SOUND in shapes:  # (1, clips, ...) of windows, or (1, 1, time, ...)
        length, *rest = shapes[SOUND][2:]
        about = length if has_window else math.floor(math.log(max(length, 1), LONGER))
        shapes |= {SOUND: (about, *rest)}
        shapes.pop(SOUND_MASK, None)
    return tuple(sorted(shapes.items()))


def _sound_numbers(group: Sequence[tuple[int, Read]]) -> int:
    """Numbers in the sounds of a batch, with their padding."""
    sounds = [read[SOUND].numel() for _, (read, _) in group if SOUND in read]
    return len(sounds) * max(sounds, default=0)


def _joined(reads: Sequence[Mapping[str, torch.Tensor]], has_window: bool) -> dict[str, torch.Tensor]:
    """(B, ...) of B times (1, ...); sounds of fewer windows or frames end in silence, which the mask leaves out."""
    reads = [dict(read) for read in reads]
    if SOUND in reads[0]:
        dim = 1 if has_window else 2
        most = max(read[SOUND].shape[dim] for read in reads)
        if any(SOUND_MASK in read or read[SOUND].shape[dim] < most for read in reads):
            for read in reads:
                _pad(read, most, dim)
    return {name: torch.cat([read[name] for read in reads]) for name in reads[0]}


def _pad(read: dict[str, torch.Tensor], length: int, dim: int) -> None:
    """Lengthens the sound (1, clips, time, ...) of a file, which then has a mask (1, clips), or (1, clips, time)."""
    sound = read[SOUND]
    more = length - sound.shape[dim]
    mask = read.get(SOUND_MASK, sound.new_ones(sound.shape[: dim + 1], dtype=torch.bool))
    read[SOUND] = nn.functional.pad(sound, [0] * (2 * (sound.ndim - 1 - dim)) + [0, more])
    read[SOUND_MASK] = nn.functional.pad(mask, [0, more])


# ---- anything else -------------------------------------------------------------------------------------------------


class _Made(Dataset):
    """What `make` makes of each item; None where it raises an error."""

    def __init__(self, items: Sequence[Any], make: Callable[[Any], Any]):
        self.items, self.make = items, make

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.make(self.items[index])
        except Exception:  # raised again where it is asked for
            return None


def made_ahead(
    items: Iterable[Any], make: Callable[[Any], Any], workers: int
) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """(item, what gives `make(item)`, or raises its error) of each in order. workers: processes that make them ahead;
    0: each is made when it is asked for."""
    if not workers:
        yield from ((item, partial(make, item)) for item in items)
        return
    ahead: Any = {"num_workers": workers, "worker_init_fn": _end_with_parent, "generator": torch.Generator()}
    items = list(items)
    made = DataLoader(_Made(items, make), batch_size=None, collate_fn=_as_it_is, **ahead)
    for item, found in zip(items, made, strict=True):
        yield item, partial(make, item) if found is None else partial(_as_it_is, found)


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
