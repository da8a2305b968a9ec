"""Webdataset shards: tar files of samples whose members share a key, read as a stream.

    000001.jpg 000001.txt 000001.json ─► {"id": "000001", "image": bytes, "suffix": "...", ...the keys of the JSON}

The order of a pass follows from (seed, epoch); each pass has another one, and each sample comes once in it. The
headers of a shard say where its samples stand; a sample is read when its turn comes, so the buffer holds places only.
"""

import glob
import io
import json
import os
import random
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..processing.images.limits import check_choice, check_count
from ..processing.media_kinds import COLUMN_OF
from .dataset import DataReport, check_values
from .errors import DataError

TEXTS = {"txt": "suffix", "caption": "suffix", "text": "suffix", "cls": "label"}


class MMShards(IterableDataset):
    """A stream of samples over tar shards.

    Args:
        shards: paths, or one pattern such as "shards/train-{0000..0099}.tar" or "shards/*.tar".
        columns: what fields and JSON keys of other names are, {"caption": "suffix"}; None leaves one aside.
        shuffle: samples in the buffer that the next one is drawn from; 0 keeps the order of the shards.
        seed: of the order of the shards and of the buffer.
        dots: where a member's name is cut into key and field. "first": at the first dot, as webdataset does
            (a.seg.png is the field seg.png of a); "last": at the last one (img_1.5x.jpg is the jpg of img_1.5x).
        on_error: "raise" a DataError for samples that are not whole, or "skip" them and count them in `report`.

    Each worker of a DataLoader reads its share of the shards, or, where there are fewer shards than workers, its share
    of each one's samples. `shard(count, index)` does the same for processes that each make their own batches; Trainers
    deal out the samples of a whole stream by themselves (MMTrainer each of them once, docs/data.md).
    """

    def __init__(
        self,
        shards,
        *,
        columns: Mapping[str, str | None] | None = None,
        shuffle: int = 0,
        seed: int = 0,
        dots: str = "first",
        on_error: str = "raise",
    ):
        check_choice("dots", dots, ("first", "last"))
        check_choice("on_error", on_error, ("raise", "skip"))
        check_count("shuffle", shuffle)
        check_count("seed", seed)
        if columns is not None and not isinstance(columns, Mapping):
            raise TypeError(f'columns is a dict such as {{"caption": "suffix"}}; got {type(columns).__name__}')
        if not isinstance(shards, (str, os.PathLike, list, tuple)):
            raise TypeError(f"shards is a pattern, a folder or a list of files; got {type(shards).__name__}")
        self.shards = expanded(shards)
        self.columns, self.shuffle, self.seed, self.dots = dict(columns or {}), shuffle, seed, dots
        self.on_error = on_error
        self._told, self._passes = torch.full((1,), -1).share_memory_(), 0  # shared with workers that run already
        self.count, self.index = 1, 0
        self.report = DataReport(str(shards), "webdataset")
        self._length: int | None = None
        self._faults: set[tuple[str, str]] = set()

    def set_epoch(self, epoch: int) -> None:
        """Which pass comes next; Trainer and accelerate call it. Without it each pass has an order of its own."""
        check_count("epoch", epoch)
        self._told.fill_(epoch)

    def shard(self, count: int, index: int) -> "MMShards":
        """The part `index` of `count` of this stream: together they hold each sample once."""
        if not 0 <= index < count:
            raise ValueError(f"index={index} of count={count}; accepted are 0 to count - 1")
        part = MMShards(
            self.shards, columns=self.columns, shuffle=self.shuffle, seed=self.seed, dots=self.dots,
            on_error=self.on_error,
        )  # fmt: skip
        part.count, part.index, part._told = count * self.count, self.index + self.count * index, self._told
        return part

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        workers, own = (1, 0) if worker is None else (worker.num_workers, worker.id)
        count, index = self.count * workers, self.index + self.count * own
        epoch = self._epoch(worker)
        order = self._order(epoch)
        # whole shards where there are enough for all; else all look through every shard and take each count-th sample
        whole = len(order) >= count
        places = (place for path in (order[index::count] if whole else order) for place in self._places(path))
        if not whole:
            places = islice(places, index, None, count)
        for place in _shuffled(places, self.shuffle, random.Random(f"{self.seed}:{epoch}:{index}")):
            yield self.read(place)

    def places(self, epoch: int) -> Iterator["Place"]:
        """Where all samples of this stream stand, in the order of a pass: the same in each process and worker."""
        found = (place for path in self._order(str(epoch)) for place in self._places(path))
        return _shuffled(
            islice(found, self.index, None, self.count), self.shuffle, random.Random(f"{self.seed}:{epoch}")
        )

    def count_samples(self) -> int:
        """How many samples a pass has; looks through the headers of all shards when it is first called."""
        if self._length is None:
            self._length = sum(1 for _ in self.places(0))
            self.report.samples = self._length
        return self._length

    def _order(self, epoch: str) -> list[str]:
        order = list(self.shards)
        if self.shuffle:
            random.Random(f"{self.seed}:{epoch}").shuffle(order)
        return order

    def _epoch(self, worker: Any) -> str:
        """What was told; else what torch draws for each pass with workers, and how many passes came before."""
        told, self._passes = int(self._told), self._passes + 1
        if told >= 0:
            return str(told)
        return f"{0 if worker is None else worker.seed - worker.id}, {self._passes - 1}"

    def _places(self, path: str) -> Iterator["Place"]:
        """The places of a shard's samples; with on_error="skip" only of those that are whole."""
        for place in places_in(path, self.dots):
            if self.on_error == "skip" and (reason := self._fault(place)):
                fault = (place.where, reason)
                if fault not in self._faults:
                    self._faults.add(fault)
                    self.report.left_out.append(fault)
                continue
            yield place

    def _fault(self, place: "Place") -> str:
        """Why a sample is not whole, "" for one that is; media are not read."""
        try:
            self._checked(place, {field: b"." if f".{field}" in COLUMN_OF and held.size else held.read(place.path)
                                  for field, held in place.fields.items()})  # fmt: skip
        except LookupError as fault:
            return str(fault.args[0])
        return ""

    def read(self, place: "Place") -> dict[str, Any]:
        """The sample that stands there. Raises DataError naming it where it is not whole."""
        try:
            return self._checked(place, {field: held.read(place.path) for field, held in place.fields.items()})
        except LookupError as fault:
            raise DataError(f'{place.where}: {fault.args[0]}; on_error="skip" goes without such samples') from None

    def _checked(self, place: "Place", fields: dict[str, bytes]) -> dict[str, Any]:
        sample = self._sample(place.path, place.key, fields)
        check_values(sample)
        return sample

    def _sample(self, path: str, key: str, fields: dict[str, bytes]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field, data in fields.items():
            for name, value in _read(field, data, self.columns).items():
                name = self.columns.get(name, name)
                if name is None:
                    continue
                if name in found:
                    raise LookupError(f"{name!r} comes from two of the fields {sorted(fields)}; say columns=")
                found[name] = value
        if not set(found) & {"image", "images", "video", "audio", "text", "suffix", "label"}:
            dotted = any("." in field and f".{field.rpartition('.')[2]}" in COLUMN_OF for field in fields)
            hint = '; if the keys have dots in them, say dots="last"' if dotted and self.dots == "first" else ""
            raise LookupError(f"none of the fields {sorted(fields)} is known{hint}; say columns=")
        return {"id": found.pop("id", f"{os.path.basename(path)}/{key}"), **found}


def expanded(shards) -> list[str]:
    """The paths that a pattern stands for; each must exist."""
    if isinstance(shards, (str, os.PathLike)):
        pattern = os.fspath(shards)
        if os.path.isdir(pattern):
            pattern = os.path.join(pattern, "*.tar")
        braces = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
        if braces:
            low, high = braces.groups()
            numbers = (str(number).zfill(len(low)) for number in range(int(low), int(high) + 1))
            found = [pattern[: braces.start()] + number + pattern[braces.end() :] for number in numbers]
        else:
            found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    else:
        found = [os.fspath(one) for one in shards]
    if not found:
        raise FileNotFoundError(f"no shard is called {shards}")
    if missing := [path for path in found if not os.path.isfile(path)]:
        raise FileNotFoundError(f"{len(missing)} of {len(found)} shards are missing, first {missing[0]}")
    return found


@dataclass(slots=True)
class Member:
    """A member of a shard: where its bytes begin and how many there are, or the bytes where no place is known."""

    start: int
    size: int
    held: bytes | None = None

    def read(self, path: str) -> bytes:
        if self.held is not None:
            return self.held
        with open(path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), self.size, self.start)
        if len(data) != self.size:
            raise DataError(f"{path} is no whole tar file: it ends within a member")
        return data


@dataclass(slots=True)
class Place:
    """Where a sample is: its shard, its key and the members of its fields."""

    path: str
    key: str
    fields: dict[str, Member]

    @property
    def where(self) -> str:
        return f"{os.path.basename(self.path)}, {self.key}"


def places_in(path: str, dots: str) -> Iterator[Place]:
    """The samples of a tar file: its members that follow each other with one key.

    Raises DataError naming the file where it is cut or no tar file, or where a key or a field comes twice.
    """
    key, fields, seen = None, {}, set()
    try:
        with tarfile.open(path) as tar:
            is_plain = isinstance(tar.fileobj, io.BufferedReader)  # not compressed: bytes have a place
            for member in tar:
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]: kept headers of the whole shard
                name = os.path.basename(member.name)
                if not member.isfile() or name.startswith((".", "__")):
                    continue
                own, field = _cut(member.name, dots)
                if own != key:
                    if fields:
                        yield Place(path, str(key), fields)
                    key, fields = own, {}
                    if own in seen:
                        raise DataError(f"{path}: the members of {own!r} do not follow each other")
                    seen.add(own)
                if field in fields:
                    raise DataError(f"{path}: {own!r} has the field {field!r} twice")
                fields[field] = _member(tar, member, is_plain)
        if fields:
            yield Place(path, str(key), fields)
    except (tarfile.TarError, EOFError) as fault:
        raise DataError(f"{path} is no whole tar file: {fault}") from fault


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, is_plain: bool) -> Member:
    if is_plain and member.sparse is None:
        return Member(member.offset_data, member.size)
    file = tar.extractfile(member)
    held = b"" if file is None else file.read()
    return Member(0, len(held), held)


def _cut(name: str, dots: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    key, _, field = base.partition(".") if dots == "first" else base.rpartition(".")
    return f"{folder}{slash}{key}", field.lower()


def _read(field: str, data: bytes, columns: Mapping[str, str | None]) -> dict[str, Any]:
    """What a field of a sample says: {column: value}."""
    kind = COLUMN_OF.get(f".{field}")
    if kind is not None:
        if not data:
            raise LookupError(f"the field {field!r} is empty")
        return {field if field in columns else kind: data}
    try:
        if field == "json":
            held = json.loads(data.decode("utf-8"))
            if not isinstance(held, dict):
                raise LookupError(f"the field json is an object; got {type(held).__name__}")
            return held
        if field in TEXTS and field not in columns:
            text = data.decode("utf-8")
            return {TEXTS[field]: int(text) if field == "cls" else text}
        return {field: data.decode("utf-8") if columns.get(field) in ("text", "suffix") else data}
    except (UnicodeDecodeError, ValueError) as fault:
        raise LookupError(f"the field {field!r} cannot be read: {fault}") from None


def _shuffled(stream: Iterator[Place], size: int, rng: random.Random) -> Iterator[Place]:
    """Each time one of `size` held places, drawn at random; all of them in the end."""
    if not size:
        yield from stream
        return
    held = []
    for sample in stream:
        held.append(sample)
        if len(held) > size:
            place = rng.randrange(len(held))
            held[place], held[-1] = held[-1], held[place]
            yield held.pop()
    rng.shuffle(held)
    yield from held
