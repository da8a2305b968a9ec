"""Videos and sounds come from the same kinds of places as pictures: here as an open file, checked and named."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from .limits import MediaDecodeError, bounded_file, decoding
from .load import check_path
from .urls import fetch, is_url, read_data_url


@contextmanager
def opened(source: Any, noun: str, max_bytes: int, allow_urls: bool) -> Iterator[tuple[Any, str]]:
    """(binary file, name in words) of a path, bytes, a file object, a data URL, or a URL on demand.

    Raises:
        MediaDecodeError: more than max_bytes, a URL that fails. MediaNotFoundError: no file at that path.
        ValueError: a URL without allow_urls. TypeError: a source of another type.
    """
    if isinstance(source, str) and is_url(source):
        name = repr(source if len(source) <= 80 else f"{source[:77]}...")
        is_data = source.startswith("data:")
        if not allow_urls and not is_data:
            raise ValueError(f"strings are paths, and URLs are not fetched without allow_urls=True; got {name}")
        with decoding(name):
            file = BytesIO(read_data_url(source, max_bytes) if is_data else fetch(source, max_bytes))
        yield file, name
    elif isinstance(source, (str, os.PathLike)):
        name = repr(str(os.fspath(source))[:200])
        check_path(source, name, noun)
        with decoding(name):
            file = open(source, "rb")
        with file:
            with decoding(name):
                bounded_file(file, max_bytes)
            yield file, name
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield BytesIO(source), f"the {len(source)} bytes given"
    elif hasattr(source, "read"):
        with decoding("the file object"):
            file = bounded_file(source, max_bytes)
            if not isinstance(file.read(0), bytes):
                raise MediaDecodeError("it is no binary file: open it in mode 'rb'")
        yield file, "the file object"
    else:
        raise TypeError(f"a {noun} is a path, bytes, a binary file object or an array; got {type(source).__name__}")
