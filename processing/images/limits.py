"""Limits of what is read, and the error for a picture that cannot be read.

The limits are those of a machine, not of a checkpoint: they are arguments of a call and are never saved.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from numbers import Integral, Real
from typing import Any

# Importing a plugin registers it with Pillow: these and no others, since each further format is attack surface.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

ON_ERROR = ("raise", "skip", "placeholder")  # what a call does with media that are missing or broken
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 64_000_000
MAX_BYTES = 64_000_000
MAX_BATCH_PIXELS = 16 * MAX_PIXELS

# Decoders that hold a picture several times over may have only half of the pixels.
COSTLY_FORMATS = ("WEBP", "AVIF", "progressive JPEG")

# What Pillow raises on broken files and broken EXIF blocks; only OSError is documented.
DECODER_FAULTS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    RuntimeError,
    EOFError,
    ArithmeticError,
    LookupError,
    AttributeError,
    AssertionError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class MediaDecodeError(ValueError):
    """A source was found but holds nothing that can be used: broken, of a format not accepted, or too large.

    Attributes:
        name: text for the source, such as a path in quotes.
        format: the file's format as Pillow names it; None if it was not recognised or there is no file. cause: the
        problem, with the type of the original error if there is one.
        index: the source's place among those of a call, such as 3 or "images[1][0]"; None for a single source.
        reason: the message without that place, for those who know the file.
    """

    def __init__(
        self,
        message: str,
        *,
        name: str | None = None,
        format: str | None = None,
        cause: str | None = None,
        index: int | str | None = None,
    ):
        super().__init__(message)
        self.name = name
        self.format = format
        self.cause = message if cause is None else cause
        self.index = index
        self.reason = message

    def at(self, index: int | str) -> "MediaDecodeError":
        """The same error, its message saying where it was: `index` is a number or text."""
        place = f"images[{index}]" if isinstance(index, int) else index
        placed = type(self)(f"{place}: {self}", name=self.name, format=self.format, cause=self.cause, index=index)
        placed.reason = self.reason
        return placed


class MediaNotFoundError(MediaDecodeError, FileNotFoundError):
    """No file at a path."""


@contextmanager
def decoding(
    name: str, accepted: Sequence[str] = FORMATS, faults: tuple[type[BaseException], ...] = DECODER_FAULTS
) -> Iterator[dict[str, Any]]:
    """Turns any error of a decoder into one typed error that names the source and the accepted formats.

    Yields a dict that takes the "format", once that is known.
    """
    known: dict[str, Any] = {"format": None}
    try:
        yield known
    except MediaDecodeError as fault:
        raise type(fault)(
            f"cannot use {name}: {fault}", name=name, format=known["format"], cause=fault.cause
        ) from fault
    except faults as fault:
        unknown = isinstance(fault, UnidentifiedImageError)  # whose own words are the address of an object
        cause = "its format is not recognised" if unknown else f"{type(fault).__name__}: {fault}"
        shown = f"{name}, a {known['format']} file" if known["format"] else name
        raise MediaDecodeError(
            f"cannot decode {shown} ({cause}); accepted are whole files of {', '.join(accepted)}",
            name=name,
            format=known["format"],
            cause=cause,
        ) from fault


class PixelBudget:
    """The pixels that the pictures of one call may have together, spent before each is decoded."""

    def __init__(self, allowed: int = MAX_BATCH_PIXELS):
        self.allowed = allowed
        self.spent = 0

    @property
    def is_overspent(self) -> bool:
        return self.spent > self.allowed

    def spend(self, pixels: int) -> None:
        """Raises MediaDecodeError where that is more than is left."""
        self.spent += pixels
        if self.is_overspent:
            raise MediaDecodeError(
                f"with it the pictures of this call have {self.spent / 1e6:.1f} megapixels; "
                f"max_batch_pixels={self.allowed} allows {self.allowed / 1e6:.1f}"
            )


def check_pixels(width: int, height: int, max_pixels: int = MAX_PIXELS, budget: PixelBudget | None = None) -> None:
    """Raises MediaDecodeError for a picture without pixels, or with more than `max_pixels` or than the budget has."""
    if width * height > max_pixels:
        raise MediaDecodeError(
            f"it is {width} x {height}, {width * height / 1e6:.1f} megapixels; "
            f"max_pixels={max_pixels} allows {max_pixels / 1e6:.1f}"
        )
    if width == 0 or height == 0:
        raise MediaDecodeError(f"it is {width} x {height}: there are no pixels")
    if budget is not None:
        budget.spend(width * height)


def allowed_pixels(image: Image.Image, max_pixels: int) -> int:
    """`max_pixels`, or half of it where the decoder of this opened file is one of COSTLY_FORMATS."""
    kind = "progressive JPEG" if image.info.get("progressive") else image.format
    return max_pixels // 2 if kind in COSTLY_FORMATS else max_pixels


def check_bytes(size: int, max_bytes: int = MAX_BYTES) -> None:
    """Raises MediaDecodeError for more than `max_bytes`."""
    if size > max_bytes:
        raise MediaDecodeError(f"it has {size / 1e6:.1f} MB; max_bytes={max_bytes} allows {max_bytes / 1e6:.1f}")


def bounded_file(file: Any, max_bytes: int = MAX_BYTES) -> Any:
    """`file` where it can be measured and is no longer than `max_bytes`; what cannot seek is read, so far and no more.

    Raises MediaDecodeError for more bytes, for none, and for a file object opened as text.
    """
    try:
        place = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(place)
    except (AttributeError, OSError, TypeError):
        data = file.read(max_bytes + 1)
        if not isinstance(data, bytes):
            raise MediaDecodeError(
                f"reading it gives {type(data).__name__}, not bytes: open it in mode 'rb'"
            ) from None
        check_bytes(len(data), max_bytes)
        return BytesIO(data)
    if not size:
        raise MediaDecodeError("it is empty")
    check_bytes(size, max_bytes)
    return file


def check_count(name: str, value: Any, least: int = 0, none: bool = False) -> None:
    """Raises ValueError unless `value` is a whole number from `least` on, or None where that is accepted."""
    if none and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r}; accepted are whole numbers from {least}{', or None' * none}")


def check_share(name: str, value: Any, most: float = 1) -> None:
    """Raises ValueError unless `value` is a number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= most:
        raise ValueError(f"{name}={value!r}; accepted are {'shares' if most == 1 else 'numbers'} from 0 to {most}")


def check_switch(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}; accepted are True or False")


def check_callable(name: str, value: Any, takes: str) -> None:
    """Raises TypeError unless `value` can be called, or is None. takes: with what, in words."""
    if value is not None and not callable(value):
        raise TypeError(f"{name}={value!r}; accepted is a function of {takes}, or None")


def check_choice(name: str, value: Any, accepted: tuple) -> None:
    """Raises ValueError unless `value` is one of those accepted."""
    if value not in accepted:
        raise ValueError(f"{name}={value!r}; accepted are {', '.join(map(repr, accepted))}")
