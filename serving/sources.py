"""What a request may name as a picture or a sound: bytes in a data URL always, a link or a path only if allowed."""

import base64
import binascii
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..processing.images.urls import fetch

_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w=.-]+)*;base64,", re.ASCII)


@dataclass(frozen=True)
class SourceRules:
    """allow_urls: fetch http(s) links, only from public addresses. allow_paths: read files below this folder.
    max_bytes: of one medium."""

    allow_urls: bool = False
    allow_paths: Path | None = None
    max_bytes: int = 16 << 20

    def read(self, source: str, what: str = "image") -> bytes:
        """The bytes of a medium. Raises ValueError for what is not allowed, not there or too large."""
        if found := _DATA.match(source):
            try:
                data = base64.b64decode(source[found.end() :], validate=True)
            except (binascii.Error, ValueError):
                raise ValueError(f"the data URL of {what} holds no base64") from None
        elif source.startswith(("http://", "https://")):
            if not self.allow_urls:
                raise ValueError(f"{what} is a link, which this server does not fetch; send a data URL")
            data = fetch(source, max_bytes=self.max_bytes)
        elif self.allow_paths is not None:
            data = self._file(source.removeprefix("file://"), what)
        else:
            raise ValueError(f"{what} must be a data URL (data:image/png;base64,...); this server reads no paths")
        if len(data) > self.max_bytes:
            raise ValueError(f"{what} has {len(data)} bytes; at most {self.max_bytes} are read")
        if not data:
            raise ValueError(f"{what} is empty")
        return data

    def _file(self, name: str, what: str) -> bytes:
        assert self.allow_paths is not None
        root = os.path.realpath(self.allow_paths)
        path = os.path.realpath(os.path.join(root, name)) if "\0" not in name else root
        if os.path.commonpath([root, path]) != root or not os.path.isfile(path):
            raise ValueError(f"{what} names no file below the folder that this server may read")
        if os.path.getsize(path) > self.max_bytes:
            raise ValueError(f"{what} has {os.path.getsize(path)} bytes; at most {self.max_bytes} are read")
        return Path(path).read_bytes()
