"""Whether a file of sound or film is all there, by what its own headers promise; nothing is decoded.

    MP4, MOV     the ends of its boxes             AVI  the lengths of its RIFF lists
    Matroska     the end of its segment            OGG  the end of its last page, and only one stream
    FLV          the size that follows each tag    MP3  its bytes, where a Xing header gives them
    MPEG-TS      whole packets

The length is unknown for program streams, ADTS, MP3 without that header, streams cut between two pages or packets, and
files written as streams (their headers say so). A part of such a file is read as a shorter file.
"""

import logging
import os
from typing import Any

from .limits import MediaDecodeError

logger = logging.getLogger(__name__)

BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"styp", b"sidx", b"mfra", b"uuid", b"meta",
         b"pnot", b"udta", b"emsg", b"prft", b"pdin")  # fmt: skip
FILLED_BOXES = (b"moov", b"mdat", b"moof")
# Bytes: some writers count a header too many, or leave a byte of padding out.
SLACK = 64
PACKET = 188
XING_OFFSETS = (13, 21, 36)  # after the start of an MP3 frame
MAX_PAGE = 27 + 255 + 255 * 255


def check_whole(file: Any) -> None:
    """Raises MediaDecodeError where a film or sound ends before it says it does. The place of `file` is kept."""
    place = file.tell()
    head = file.read(16)
    end = file.seek(0, os.SEEK_END)
    try:
        if head[4:8] in BOXES:
            _check_boxes(file, place, end)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            _check_lists(file, place, end)
        elif head[:4] == b"\x1aE\xdf\xa3":
            _check_segment(file, place, end)
        elif head[:4] == b"OggS":
            _check_pages(file, place, end)
        elif head[:3] == b"FLV":
            _check_tags(file, place, end)
        elif head[:1] == b"\x47" and _read(file, place + PACKET, 1) == b"\x47":
            if (end - place) % PACKET:
                raise MediaDecodeError("it is cut off: its last packet is not all there")
        elif head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
            _check_frames(file, place, end)
    finally:
        file.seek(place)


def cut_off(promised: float, there: float, unit: str) -> MediaDecodeError:
    """The error for a file that is not whole, with both lengths."""
    shown = f"{promised:.2f}" if unit == "s" else f"{promised:.0f}"
    held = f"{there:.2f}" if unit == "s" else f"{there:.0f}"
    return MediaDecodeError(f"it is cut off: it promises {shown} {unit}, and {held} {unit} are there")


def _read(file: Any, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _check_boxes(file: Any, place: int, end: int) -> None:
    start = place
    while place + 8 <= end:
        head = _read(file, place, 16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if kind not in BOXES or size < 8:  # 0: as long as the file is
            return
        place += size
        if place > end and kind in FILLED_BOXES:
            raise cut_off(place - start, end - start, "bytes")


def _check_lists(file: Any, place: int, end: int) -> None:
    start = place
    while place + 12 <= end:
        head = _read(file, place, 12)
        size = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or is_streamed(size) or not size:
            return
        place += 8 + size + size % 2
        if place > end + SLACK:
            raise cut_off(place - start, end - start, "bytes")


def is_streamed(size: int) -> bool:
    """Whether a length of 32 bits is one that writers of streams put where they cannot know it."""
    return size >= 0xFFFF_E000 or 0x7FFF_E000 <= size <= 0x8000_1000


def _check_segment(file: Any, place: int, end: int) -> None:
    """Matroska: the header, then the segment, each an element of (id, size, content)."""
    start = place
    for _ in range(2):
        head = _read(file, place, 12)
        if len(head) < 12 or not head[4]:
            return
        length = 9 - head[4].bit_length()
        size = int.from_bytes(head[4 : 4 + length], "big") & ((1 << 7 * length) - 1)
        if size == (1 << 7 * length) - 1:
            return
        place += 4 + length + size
        if head[:4] == b"\x18S\x80g" and place > end:
            raise cut_off(place - start, end - start, "bytes")


def _check_pages(file: Any, place: int, end: int) -> None:
    """OGG: the last page is all there. It states its own length; what follows it is not known."""
    tail_start = max(place, end - MAX_PAGE)
    tail = _read(file, tail_start, end - tail_start)
    at = tail.rfind(b"OggS")
    while at >= 0 and len(tail) - at > 6 and (tail[at + 4] or tail[at + 5] > 7):  # the four letters in a packet
        at = tail.rfind(b"OggS", 0, at)
    if at < 0:
        return
    count = tail[at + 26] if len(tail) - at > 26 else 0
    segments = tail[at + 27 : at + 27 + count]
    size = 27 + count + sum(segments)
    rest = tail[at + size :]
    if len(tail) - at < size or (rest and b"OggS".startswith(rest)):
        promised = tail_start + at + max(size, 28) - place
        raise cut_off(max(promised, end - place + 1), end - place, "bytes")
    if not tail[at + 5] & 4:
        logger.warning("an OGG file ends without its last page: it is cut off there, or was recorded as a stream")
    _check_one_stream(file, place, end)


def _check_one_stream(file: Any, at: int, end: int) -> None:
    """OGG: no first page of a stream follows the other pages, as where files were put one after the other."""
    is_inside = False
    while at + 27 <= end and (head := _read(file, at, 27 + 255))[:4] == b"OggS":
        is_first = bool(head[5] & 2)
        if is_first and is_inside:
            raise _several("OGG")
        is_inside = is_inside or not is_first
        at += 27 + head[26] + sum(head[27 : 27 + head[26]])


def _several(kind: str) -> MediaDecodeError:
    return MediaDecodeError(
        f"it is several {kind} files one after the other, and only one would be read: give each as its own file"
    )


def _check_tags(file: Any, place: int, end: int) -> None:
    """FLV: the file ends with the size of its last tag."""
    last = int.from_bytes(_read(file, end - 4, 4), "big")
    tag = end - 4 - last
    if last >= 11 and tag >= place + 9 and int.from_bytes(_read(file, tag + 1, 3), "big") + 11 == last:
        return
    raise MediaDecodeError("it is cut off: its last tag is not all there")


def _check_frames(file: Any, place: int, end: int) -> None:
    """MP3: the Xing header in its first frame may state the size of the file, with or without the tag before it."""
    file.seek(place)
    at = xing_header(file)
    if at is None:
        return
    head = _read(file, at, 16)
    if head[7:8] and head[7] & 2:
        told = int.from_bytes(head[8 + 4 * (head[7] & 1) :][:4], "big")
        if told > end - place + SLACK:
            raise cut_off(told, end - place, "bytes")
        for start in {place, *(at - offset for offset in XING_OFFSETS)} if told else ():
            file.seek(start + told)
            if xing_header(file) is not None:
                raise _several("MP3")


def xing_header(file: Any) -> int | None:
    """The place of an MP3 file's Xing or Info header, which holds its length; None if it has none. The place
    of `file` is kept."""
    start = place = file.tell()
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        size = sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        place += 10 + size + 10 * bool(head[5] & 16)
    frame = _read(file, place, 64)
    file.seek(start)
    if len(frame) < 64 or frame[0] != 255 or frame[1] & 0xE6 != 0xE2:
        return None
    is_first, is_mono = frame[1] >> 3 & 3 == 3, frame[3] >> 6 == 3
    at = XING_OFFSETS[1 + is_first - is_mono]
    return place + at if frame[at : at + 4] in (b"Xing", b"Info") else None
