"""Information in the headers of uncompressed sound files that libsndfile does not return: stated length, speakers.

WAV, RIFX, RF64   fmt, data         AIFF, AIFC   SSND, CHAN         AU   one header
W64               the same, by long names        CAF   data, chan
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..images.whole_files import SLACK, cut_off, is_streamed
from .layouts import speakers_of_chunk, speakers_of_mask

Order = Literal["little", "big"]


class Kind(NamedTuple):
    """How a format lays out its chunks: where the first is, the bytes of a name and of a size, to what each is padded,
    what comes before the samples in their own chunk, and how a file of it is recognised."""

    order: Order
    first: int
    name: int
    width: int
    padding: int
    ahead: int
    form: tuple[int, tuple[bytes, ...]]


KINDS = {
    b"RIFF": Kind("little", 12, 4, 4, 2, 0, (8, (b"WAVE",))),
    b"RF64": Kind("little", 12, 4, 4, 2, 0, (8, (b"WAVE",))),
    b"RIFX": Kind("big", 12, 4, 4, 2, 0, (8, (b"WAVE",))),
    b"riff": Kind("little", 40, 16, 8, 8, 0, (24, (b"wave",))),
    b"FORM": Kind("big", 12, 4, 4, 2, 8, (8, (b"AIFF", b"AIFC"))),
    b"caff": Kind("big", 8, 4, 8, 1, 4, (0, (b"caff",))),
}


@dataclass
class SoundHeader:
    """The samples of a file: how many bytes its header states, and how many the file has.

    unknown: the header says that it does not know. was_left: it says that there are none, as that of a recorder that
    never came to write it, and there are some. sizes: what would stand in the fields of the length if it had been
    written, (place, bytes). speakers: of each channel, if the file states them.
    """

    promised: int = 0
    there: int = 0
    unknown: bool = False
    was_left: bool = False
    sizes: list[tuple[int, bytes]] = field(default_factory=list)
    speakers: tuple[str, ...] | None = None

    def check(self, seconds: float) -> None:
        """Raises MediaDecodeError where the file is cut off. seconds: of the samples in the file."""
        if self.unknown or self.promised <= self.there + SLACK:
            return
        if self.there and seconds:
            raise cut_off(seconds * self.promised / self.there, seconds, "s")
        raise cut_off(self.promised, self.there, "bytes")


def read_header(file: Any) -> SoundHeader | None:
    """Of an open file, whose place is kept; None for other formats, and without samples."""
    place = file.tell()
    head = file.read(64)
    end = file.seek(0, os.SEEK_END)
    try:
        if head[:4] in (b".snd", b"dns."):
            return _of_au(head, place, end)
        kind = KINDS.get(head[:4])
        at, names = kind.form if kind else (0, ())
        return _of_chunks(file, head, kind, place, end) if kind and head[at : at + 4] in names else None
    finally:
        file.seek(place)


def _of_au(head: bytes, place: int, end: int) -> SoundHeader:
    order = "big" if head[:4] == b".snd" else "little"
    start, size = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
    there = max(0, end - place - start)
    return SoundHeader(size, there, is_streamed(size), not size and there > 0, [(place + 8, _bytes(there, 4, order))])


def _of_chunks(file: Any, head: bytes, kind: Kind, place: int, end: int) -> SoundHeader | None:
    header, long_size, frame = None, None, 1
    sizes: list[tuple[int, int]] = []
    speakers: tuple[str, ...] | None = None
    for name, start, size in _chunks(file, kind, place + kind.first, end):
        file.seek(start)
        if name == b"ds64":
            long_size, sizes = int.from_bytes(file.read(16)[8:], "little"), [(start + 8, 8)]
        elif name == b"fmt ":
            speakers = speakers_of_mask(file.read(40), kind.order)
        elif name == b"COMM":  # AIFF also states the number of frames here
            body = file.read(8)
            frame = max(1, int.from_bytes(body[:2], "big") * -(-int.from_bytes(body[6:], "big") // 8))
            sizes.append((start + 2, 4))
        elif name in (b"CHAN", b"chan"):
            speakers = speakers_of_chunk(file.read(12))
        elif name in (b"data", b"SSND") and header is None:
            size = long_size if long_size is not None and size == 0xFFFF_FFFF else size
            there = max(0, end - start - kind.ahead)
            unknown = is_streamed(size) if kind.width == 4 and long_size is None else not 0 <= size < 2**62
            header = SoundHeader(max(0, size - kind.ahead), there, unknown)
            header.was_left = not header.promised and there > 0 and not _is_chain(file, kind, start + size, end)
            own = there + kind.ahead + (kind.name + kind.width) * (kind.width == 8 and kind.name == 16)
            field_at = start - kind.width
            header.sizes = [(at, _bytes(there // frame, wide, kind.order)) for at, wide in sizes]
            header.sizes += [] if long_size is not None else [(field_at, _bytes(own, kind.width, kind.order))]
            if header.was_left or header.promised > there:
                break
    if header is not None:
        header.speakers = speakers
    return header


def _chunks(file: Any, kind: Kind, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, place, size) of each chunk, of one that goes beyond the end as well."""
    for _ in range(1000):
        file.seek(at)
        read = file.read(kind.name + kind.width)
        if len(read) < kind.name + kind.width:
            return
        start = at + len(read)
        size = int.from_bytes(read[kind.name :], kind.order, signed=kind.width == 8)
        size -= len(read) * (kind.name == 16)  # W64 counts the name and the size
        yield read[:4], start, size
        at = start + max(0, size) + -max(0, size) % kind.padding
        if at >= end:
            return


def _is_chain(file: Any, kind: Kind, at: int, end: int) -> bool:
    """Whether chunks begin at `at`, up to the end of the file."""
    for name, start, size in _chunks(file, kind, at, end):
        if not name.isascii() or not name.decode().isprintable() or not 0 <= size <= end - start:
            return False
        if start + size + 1 >= end:
            return True
    return False


def _bytes(value: int, width: int, order: Order) -> bytes:
    return min(value, (1 << 8 * width) - 1).to_bytes(width, order)


class Patched(io.RawIOBase):
    """A file with other bytes in some places."""

    def __init__(self, file: Any, patches: list[tuple[int, bytes]]):
        self._file, self._patches = file, patches

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        place = self._file.tell()
        data = bytearray(self._file.read(len(buffer)))
        for at, new in self._patches:
            for number, byte in enumerate(new):
                if 0 <= at + number - place < len(data):
                    data[at + number - place] = byte
        buffer[: len(data)] = data
        return len(data)
