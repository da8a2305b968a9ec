"""What a sample is called in draws, so that they are its own in any order, batch, worker and process."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from .epochs import Pass
from .images.limits import MAX_PIXELS


def sample_rng(seed: int, epoch: int | str, sample_id: Any) -> np.random.Generator:
    """Random numbers that depend only on (seed, epoch, sample id); the same on every machine and in every order."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{sample_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch, whose samples have these names; augments: pictures, frames and sounds too."""

    seed: int
    epoch: int | str
    names: list[str]
    augments: bool

    def rng(self, name: str) -> np.random.Generator:
        return sample_rng(self.seed, self.epoch, name)

    def rngs(self, names: Iterable[str], use: str) -> list[np.random.Generator]:
        return [self.rng(f"{name}/{use}") for name in names]


def sample_names(
    samples: Sequence[Mapping[str, Any]],
    columns: Iterable[str],
    places: Sequence[int] | None,
    made: Pass,
    is_stream: bool,
) -> list[str]:
    """By the `id` of each; without one by its place in the data set; where that is not known by what it holds.

    Args:
        columns: those that are read.
        places: in a map-style data set.
        made: the pass so far. A repeated sample without an id or a place (a stream may repeat itself) is drawn again.
    """
    names = []
    for index, sample in enumerate(samples):
        told = sample.get("id")
        if told is not None:
            name = str(told)
        elif places is not None:
            name = f"place {places[index]}"
        else:
            name = content_of({column: sample[column] for column in columns if column in sample})
        lone = told is None and places is None
        names.append(name + made.again(name) if is_stream or lone else name)
    return names


def content_of(value: Any) -> str:
    """A hash of texts, numbers, arrays, pictures and files by their bytes, in dicts and lists."""
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    kind, held = type(value).__name__, b""
    if isinstance(value, Mapping):
        value = [part for key in sorted(value, key=str) for part in (key, value[key])]
    if isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}]".encode())
        for part in value:
            _add(digest, part)
        return
    if value is None or isinstance(value, (str, int, float, np.generic)):
        held = str(value).encode(errors="surrogatepass")
    elif isinstance(value, os.PathLike):
        held = os.fsencode(value)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        held = bytes(value)
    elif isinstance(value, np.ndarray):
        kind, held = f"{value.dtype}{value.shape}", np.ascontiguousarray(value).tobytes()
    elif torch.is_tensor(value):
        whole = value.detach().cpu().contiguous()
        kind, held = f"{value.dtype}{tuple(value.shape)}", whole.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Image.Image):
        kind, held = f"{value.mode}{value.size}", _pixels(value)
    elif hasattr(value, "seek") and hasattr(value, "read"):
        held = _file(value)
    digest.update(f"{kind}:{len(held)}:".encode())
    digest.update(held)


def _pixels(picture: Image.Image) -> bytes:
    """None of a picture that is too large or broken: whether it may be read is for the reader to say."""
    if picture.width * picture.height > MAX_PIXELS:
        return b""
    try:
        return picture.tobytes()
    except Exception:  # noqa: BLE001  Pillow's decoders raise what they like; the reader names the sample
        return b""


def _file(file: Any) -> bytes:
    try:
        place = file.tell()
        held = file.read()
        file.seek(place)
    except (OSError, ValueError):
        return b""
    return held if isinstance(held, bytes) else str(held).encode()
