"""Webdataset shards: tar files of samples whose members share a key, read as a stream.

    000001.jpg 000001.txt 000001.json ─► {"id": "000001", "image": bytes, "suffix": "...", ...the keys of the JSON}

The order of a pass follows from (seed, epoch); each pass has another one, and each sample comes once in it.
"""

import glob
import json
import os
import random
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..processing.call_options import check_choice
from .dataset import DataReport, check_values
from .errors import DataError
from .media_folder import COLUMN_OF

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
    of each one's samples. `shard(count, index)` does the same for processes that each make their own batches; Trainer
    deals out the samples of a stream by itself.
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
        self.shards = expanded(shards)
        self.columns, self.shuffle, self.seed, self.dots = dict(columns or {}), shuffle, seed, dots
        self.on_error = on_error
        self._told, self._passes = torch.full((1,), -1).share_memory_(), 0  # shared with workers that run already
        self.count, self.index = 1, 0
        self.report = DataReport(str(shards), "webdataset")

    def set_epoch(self, epoch: int) -> None:
        """Which pass comes next; Trainer and accelerate call it. Without it each pass has an order of its own."""
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
        rng = random.Random(f"{self.seed}:{epoch}")
        order = list(self.shards)
        if self.shuffle:
            rng.shuffle(order)
        # whole shards where there are enough for all; else all read every shard and take each count-th sample
        whole = len(order) >= count
        mine = order[index::count] if whole else order
        stream = (sample for path in mine for sample in self._samples(path))
        if not whole:
            stream = (sample for number, sample in enumerate(stream) if number % count == index)
        yield from _shuffled(stream, self.shuffle, random.Random(f"{self.seed}:{epoch}:{index}"))

    def _epoch(self, worker: Any) -> str:
        """What was told; else what torch draws for each pass with workers, and how many passes came before."""
        told, self._passes = int(self._told), self._passes + 1
        if told >= 0:
            return str(told)
        return f"{0 if worker is None else worker.seed - worker.id}, {self._passes - 1}"

    def _samples(self, path: str) -> Iterator[dict[str, Any]]:
        for key, fields in grouped(path, self.dots):
            try:
                sample = self._sample(path, key, fields)
                check_values(sample)
            except LookupError as fault:
                where = f"{os.path.basename(path)}, {key}"
                if self.on_error == "raise":
                    raise DataError(f'{where}: {fault.args[0]}; on_error="skip" goes without such samples') from None
                self.report.left_out.append((where, str(fault.args[0])))
                continue
            yield sample

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
    """The paths that a pattern stands for; each must be there."""
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


def grouped(path: str, dots: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {field: bytes}) of the members of a tar file that follow each other with one key.

    Raises DataError naming the file where it is cut or no tar file, or where a key or a field comes twice.
    """
    key, fields, seen = None, {}, set()
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = os.path.basename(member.name)
                if not member.isfile() or name.startswith((".", "__")):
                    continue
                own, field = _cut(member.name, dots)
                if own != key:
                    if fields:
                        yield str(key), fields
                    key, fields = own, {}
                    if own in seen:
                        raise DataError(f"{path}: the members of {own!r} do not follow each other")
                    seen.add(own)
                file = tar.extractfile(member)
                if field in fields:
                    raise DataError(f"{path}: {own!r} has the field {field!r} twice")
                fields[field] = b"" if file is None else file.read()
        if fields:
            yield str(key), fields
    except (tarfile.TarError, EOFError) as fault:
        raise DataError(f"{path} is no whole tar file: {fault}") from fault


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


def _shuffled(stream: Iterator[dict], size: int, rng: random.Random) -> Iterator[dict]:
    """Each time one of `size` held samples, drawn at random; all of them in the end."""
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
