"""Pictures, videos and sounds come from the same kinds of places: here as an open file, checked and named."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from .limits import MediaDecodeError, MediaNotFoundError, bounded_file, decoding
from .urls import fetch, is_url, read_data_url


@contextmanager
def opened(
    source: Any, noun: str, max_bytes: int, allow_urls: bool, max_url_bytes: int | None = None
) -> Iterator[tuple[Any, str]]:
    """(binary file, name for errors) of a path, bytes, a file object, a data URL, or a URL on demand.

    max_url_bytes: what may be fetched; None is max_bytes.

    Raises:
        MediaDecodeError: more than max_bytes, a URL that fails. MediaNotFoundError: no file at that path.
        ValueError: a URL without allow_urls. TypeError: a source of another type.
    """
    if isinstance(source, str) and is_url(source):
        name = repr(source if len(source) <= 80 else f"{source[:77]}...")
        is_data = source.startswith("data:")
        if not allow_urls and not is_data:
            raise ValueError(
                f"strings are paths, and URLs are not fetched without allow_urls=True; got {name}. "
                f"Fetch it yourself and give the bytes"
            )
        limit = max_bytes if max_url_bytes is None else min(max_bytes, max_url_bytes)
        with decoding(name):
            file = BytesIO(read_data_url(source, max_bytes) if is_data else fetch(source, limit))
        yield file, name
    elif isinstance(source, (str, os.PathLike)):
        name = repr(str(os.fspath(source))[:200])
        _check_path(source, name, noun)
        with decoding(name):
            file = open(source, "rb")
        with file:
            with decoding(name):
                bounded_file(file, max_bytes)
            yield file, name
    elif isinstance(source, (bytes, bytearray, memoryview)):
        name = f"the {len(source)} bytes given"
        with decoding(name):
            file = bounded_file(BytesIO(source), max_bytes)
        yield file, name
    elif hasattr(source, "read"):
        name = "the file object"
        with decoding(name):
            file = bounded_file(source, max_bytes)
            if not isinstance(file.read(0), bytes):
                raise MediaDecodeError("it is no binary file: open it in mode 'rb'")
        yield file, name
    else:
        array = "a PIL image, a numpy array or a torch tensor" if noun == "picture" else "an array"
        raise TypeError(f"a {noun} is a path, bytes, a binary file object or {array}; got {type(source).__name__}")


def _check_path(source: str | os.PathLike, name: str, noun: str) -> None:
    """Raises MediaDecodeError for what is no plain file: opening a pipe or a device may wait, or never end."""
    try:
        kind = os.stat(source).st_mode
    except (OSError, ValueError) as fault:  # ValueError: NUL in the path
        missing = isinstance(fault, (FileNotFoundError, NotADirectoryError, ValueError)) or not os.path.lexists(source)
        error = MediaNotFoundError if missing else MediaDecodeError
        reason = f"no file at the path {name}" if missing else f"cannot open {name} ({type(fault).__name__}: {fault})"
        raise error(reason, name=name, cause=f"{type(fault).__name__}: {fault}") from fault
    if stat.S_ISDIR(kind):
        raise MediaDecodeError(f"the path {name} is a folder; a {noun} is one file", name=name)
    if not stat.S_ISREG(kind):
        raise MediaDecodeError(f"the path {name} is a device, pipe or socket; a {noun} is a plain file", name=name)
