"""The media of samples, read as late as can be: paths, bytes, and media that stay in their table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .dicom import read_dicom

MEDIA = ("image", "images", "video", "videos", "audio", "audios")


class InTable:
    """A medium that stays in its table until a sample is asked for. Equal bytes have an equal repr."""

    def __init__(self, table: Any, row: int, column: str, place: int | None, name: str):
        self.table, self.row, self.column, self.place, self.name = table, row, column, place, name

    def __repr__(self) -> str:
        return self.name

    def read(self) -> bytes | str:
        """Its bytes, or the path of its file."""
        held = self.table[self.row][self.column]
        held = held if self.place is None else held[self.place]
        return held["bytes"] if held.get("bytes") is not None else held["path"]


def opened(source: Any) -> Any:
    """A source as the processor reads it: DICOM files become pictures, all else stays."""
    if isinstance(source, (list, tuple)):
        return [opened(one) for one in source]
    if isinstance(source, InTable):
        return source.read()
    if isinstance(source, str) and source.lower().endswith((".dcm", ".dicom")):
        return read_dicom(source)
    return source


def media_names(sample: Mapping[str, Any]) -> list[Any]:
    """The sources of a sample, in the order of its columns."""
    found = []
    for name in MEDIA:
        value = sample.get(name)
        found += list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return found


def content(source: Any) -> bytes:
    """The bytes of a source: a path, bytes, or what `datasets` gives for media that it does not decode."""
    if isinstance(source, InTable):
        source = source.read()
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source["path"]
    return bytes(source) if isinstance(source, (bytes, bytearray)) else Path(source).read_bytes()
