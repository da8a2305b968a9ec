"""Reading pictures: one door for every kind of source, so that the same picture always gives the same pixels.

    path | bytes | file object ── allow-listed formats, size limit from the header ┐
    PIL image ─────────────────────────────────────────────────────────────────────┼─ upright RGB on the background
    numpy array | torch tensor ── layout and range checked ────────────────────────┘

Of a file with several frames or pages the first is read; of a PIL image, the frame it stands at.
"""

import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import torch

# Importing a plugin registers it with Pillow: these and no others, since each further format is attack surface.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageColor,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 64_000_000
CHANNEL_COUNTS = (1, 3, 4)

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
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

# EXIF orientation (2..8) -> the transposition that puts the picture upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Colour = str | Sequence[int]


class MediaDecodeError(ValueError):
    """A source was found but holds no picture that can be used: broken, of a format not accepted, or too large."""


def load_image(
    source: Any,
    *,
    background: Colour = "white",
    input_data_format: str | None = None,
    max_pixels: int = MAX_PIXELS,
    draft_size: int | None = None,
) -> Image.Image:
    """Read one picture as an upright RGB image with 8 bits per channel.

    Args:
        source: path (str or path-like), bytes, binary file object, PIL image, numpy array or torch tensor. Arrays are
            (H, W), (H, W, C) or (C, H, W) with C of 1, 3, 4: uint8 in 0..255, uint16 in 0..65535, floats in 0..1, bool
            as a mask. 3-D arrays whose first and last sizes could both be C need `input_data_format`.
        background: what shows through transparent pixels: a colour name or (red, green, blue) in 0..255.
        input_data_format: "channels_first" or "channels_last" for 3-D arrays; None finds out where that is certain.
        max_pixels: width x height allowed, checked before the pixels are decoded.
        draft_size: decode a JPEG file at a half, quarter or eighth of its size, as long as both sides keep at least
            this many pixels. Much faster, and not quite the pixels of a full decode. None decodes in full.

    Returns:
        The image. A PIL image that is RGB and upright already is returned as it is, not copied.

    Raises:
        MediaDecodeError (a ValueError): the file is broken, too large, or of a format outside `FORMATS`.
        FileNotFoundError: no file at that path.
        ValueError: a URL, a colour nobody knows, an array of a shape, type or range not accepted.
        TypeError: a source of another type.
    """
    colour = rgb_colour(background)
    if isinstance(source, Image.Image):
        with _decoding("the PIL image"):
            _check_pixels(source, max_pixels)
            return _upright_rgb(source, colour)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return _on_background(_image_from_array(source, input_data_format), colour)
    if isinstance(source, (str, os.PathLike)):
        path = _existing_path(source)
        with open(path, "rb") as file:
            return _decode(file, repr(str(path)), colour, max_pixels, draft_size)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(BytesIO(source), f"the {len(source)} bytes given", colour, max_pixels, draft_size)
    if hasattr(source, "read"):
        return _decode(source, "the file object", colour, max_pixels, draft_size)
    raise TypeError(
        f"a picture is a path, bytes, a binary file object, a PIL image, a numpy array or a torch tensor; "
        f"got {type(source).__name__}"
    )


def flat_pictures(images: Any) -> list:
    """The single pictures in `images`: one picture, a (B, ...) array of them, or lists of these, nested or not."""
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    if isinstance(images, (list, tuple)):
        return [picture for entry in images for picture in flat_pictures(entry)]
    return [images]


def rgb_colour(colour: Colour) -> tuple[int, int, int]:
    """A colour name, "#rrggbb" or three integers in 0..255 as (red, green, blue). Raises ValueError on others."""
    if isinstance(colour, str):
        red, green, blue = ImageColor.getrgb(colour)[:3]
        return red, green, blue
    if len(colour) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in colour):
        raise ValueError(f"a colour is a name such as 'white' or three integers in 0..255; got {colour!r}")
    red, green, blue = colour
    return red, green, blue


# ---------------------------------------------------------------------------------------------------------- files


def _existing_path(source: str | os.PathLike) -> str | os.PathLike:
    text = os.fspath(source)
    if isinstance(source, str) and re.match(r"(data:|[a-zA-Z][a-zA-Z0-9+.-]*://)", source):
        raise ValueError(
            f"strings are paths, and URLs are not fetched in this version; got {source[:80]!r}. "
            f"Fetch it yourself and give the bytes"
        )
    if not os.path.exists(text):
        raise FileNotFoundError(f"no file at the path {text[:200]!r}")
    if os.path.isdir(text):
        raise ValueError(f"the path {text[:200]!r} is a folder; a picture is one file")
    return source


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one typed error that names the source."""
    try:
        yield
    except MediaDecodeError as fault:
        raise MediaDecodeError(f"cannot use {name}: {fault}") from fault
    except DECODER_FAULTS as fault:
        raise MediaDecodeError(
            f"cannot decode {name} ({type(fault).__name__}: {fault}); accepted are whole files of {', '.join(FORMATS)}"
        ) from fault


def _decode(file: Any, name: str, colour: tuple, max_pixels: int, draft_size: int | None) -> Image.Image:
    with _decoding(name), Image.open(file, formats=FORMATS) as image:
        _check_pixels(image, max_pixels)
        if draft_size is not None:
            image.draft(None, (draft_size, draft_size))
        upright = _upright_rgb(image, colour)
        upright.info = {}
        return upright


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise MediaDecodeError(
            f"it is {image.width} x {image.height}, {image.width * image.height / 1e6:.1f} megapixels; "
            f"max_pixels={max_pixels} allows {max_pixels / 1e6:.1f}"
        )
    if image.width == 0 or image.height == 0:
        raise MediaDecodeError(f"it is {image.width} x {image.height}: there are no pixels")


# ------------------------------------------------------------------------------------------------- modes and EXIF


def _upright_rgb(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """`image` in RGB, turned as its EXIF says. The image itself is never changed; it is returned where it fits."""
    image.load()
    turn = UPRIGHT.get(_orientation(image))
    rgb = _on_background(image, colour)
    if turn is not None:
        rgb = rgb.transpose(turn)
    if rgb is not image:
        rgb.info = {}  # transpose and convert hand the EXIF on, and a second reading would turn the picture again
    return rgb


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none. A broken EXIF block is no reason to lose the picture."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_FAULTS:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _on_background(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """`image` of any mode in RGB, its transparent pixels filled from `colour`."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _wide_grey(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    canvas = Image.new("RGB", image.size, colour)
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _wide_grey(image: Image.Image) -> Image.Image:
    """An 8-bit grey image from a wider one: I;16 spans 0..65535; I and F span what their values show."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray(_to_uint8(values.astype(np.uint16)))
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise MediaDecodeError(f"mode {image.mode} holds values in {low}..{high}; accepted are finite ones from 0")
    if image.mode == "F" and high <= 1:
        return Image.fromarray(_to_uint8(values))
    if high <= 255:
        return Image.fromarray(np.rint(values).astype(np.uint8))
    if image.mode == "I" and high <= 65535:
        return Image.fromarray(_to_uint8(values.astype(np.uint16)))
    raise MediaDecodeError(
        f"mode {image.mode} holds values up to {high}; accepted are 0..255, and 0..65535 (I) or 0..1 (F)"
    )


# --------------------------------------------------------------------------------------------------------- arrays


def _image_from_array(array: np.ndarray | torch.Tensor, input_data_format: str | None) -> Image.Image:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype in (torch.bfloat16, torch.float16) else array).numpy()
    values = _to_uint8(_channels_last(array, input_data_format))
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(values))


def _channels_last(array: np.ndarray, input_data_format: str | None) -> np.ndarray:
    """`array` as (H, W) or (H, W, C), a view. Raises ValueError where the layout is not certain."""
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(
            f"an array picture is (H, W), (H, W, C) or (C, H, W) with C of {CHANNEL_COUNTS} and no size 0; "
            f"got shape {array.shape}"
        )
    if input_data_format not in (None, "channels_first", "channels_last"):
        raise ValueError(f"input_data_format is 'channels_first' or 'channels_last'; got {input_data_format!r}")
    if array.ndim == 2:
        return array
    first, last = array.shape[0] in CHANNEL_COUNTS, array.shape[-1] in CHANNEL_COUNTS
    if input_data_format is None and first and last:
        raise ValueError(
            f"the array of shape {array.shape} may be (C, H, W) or (H, W, C); "
            f"say input_data_format='channels_first' or 'channels_last'"
        )
    channels_first = first if input_data_format is None else input_data_format == "channels_first"
    if not (first if channels_first else last):
        raise ValueError(
            f"an array picture has {CHANNEL_COUNTS} channels, first or last; got shape {array.shape}"
            + (f" with input_data_format={input_data_format!r}" if input_data_format else "")
        )
    return np.moveaxis(array, 0, -1) if channels_first else array


def _to_uint8(array: np.ndarray) -> np.ndarray:
    """Values in 0..255 by the array's type. Raises ValueError outside the type's range."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.rint(array / np.float32(257)).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"array pictures are uint8, uint16, bool or floating; got {array.dtype}")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("the picture holds NaN or Inf")
    if low < 0 or high > 1:
        raise ValueError(
            f"floating pictures are in 0..1; got {low:.4g}..{high:.4g}. Divide by 255, or give uint8 for 0..255"
        )
    return np.rint(array * 255).astype(np.uint8)
