"""What Pillow reads wrong of good files, put right where they are opened.

PNG   texts under the names by which Pillow keeps its own facts ("transparency", "interlace", ...) are left out
PNG   the transparent colour of pictures of 16 bits is compared in 16 bits, that of greys of 2 and 4 bits in their own
TIFF  a picture turned by a quarter, and opened by its path, is read from its file again; once read, it raises an error
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from .limits import FORMATS, MediaDecodeError

OWN_NAMES = frozenset(
    b"transparency interlace exif xmp icc_profile gamma chromaticity srgb dpi aspect bbox duration disposal blend "
    b"default_image loop background progressive".split()
)
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
GREY_BITS = {"L;2": 2, "L;4": 4}  # Pillow's names of how the pixels lie in the file
ORIENTATION, QUARTERS = 274, (5, 6, 7, 8)


@contextmanager
def opened_picture(file: Any, formats: tuple[str, ...] = FORMATS) -> Iterator[Any]:
    """An open file as Pillow opens it, with a PNG's own facts only."""
    with Image.open(_without_own_names(file), formats=formats) as image:
        _widen_key(image)
        yield image


@contextmanager
def as_in_its_file(image: Image.Image) -> Iterator[Image.Image]:
    """`image`, or the same frame opened anew from the file that it has not been read from yet, where Pillow would read
    it wrong. Raises MediaDecodeError where it was."""
    if not isinstance(image, (PngImagePlugin.PngImageFile, TiffImagePlugin.TiffImageFile)):
        yield image
        return
    if not image.tile:
        if _is_scrambled(image):
            raise MediaDecodeError(
                "Pillow has scrambled it, as it does with uncompressed TIFF files that are turned by a quarter and "
                "opened by their path: give the path itself, or its bytes"
            )
        if _may_have_lost_its_key(image):
            raise MediaDecodeError(
                "its transparent grey seems to have 2 or 4 bits, but its pixels were read with 8, so the transparent "
                "ones are unknown: give its path or bytes, or the image before it is read"
            )
        yield image
        return
    again = None
    with ExitStack() as stack:
        file: Any = image.fp
        if file is None or file.closed:
            file = stack.enter_context(open(image.filename, "rb"))
        place = file.tell()
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            is_odd, plain = image.tag_v2.get(ORIENTATION) in QUARTERS, file
        else:
            plain = _without_own_names(file, 0)
            is_odd = plain is not file or has_wide_key(image) or _has_narrow_key(image)
        if is_odd:
            plain.seek(0)
            again = Image.open(plain, formats=[str(image.format)])
            _widen_key(again)
            again.seek(image.tell())
            again = key_as_alpha(again, plain)
            again.load()
        file.seek(place)
    yield image if again is None else again


def _is_scrambled(image: Any) -> bool:
    """Whether a TIFF that was read has the size of one turned by a quarter that was not turned: Pillow then took the
    sides of the turned picture for those of the rows in its file."""
    mapped = getattr(image, "map", None) is not None and image.filename and image.width != image.height
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not mapped:
        return False
    if image.size != (image.tag_v2.get(256), image.tag_v2.get(257)):
        return False
    try:
        with Image.open(image.filename, formats=["TIFF"]) as again:
            again.seek(image.tell())
            return isinstance(again, TiffImagePlugin.TiffImageFile) and again.tag_v2.get(ORIENTATION) in QUARTERS
    except (OSError, EOFError):
        return False


def _without_own_names(file: Any, start: int | None = None) -> Any:
    """`file`, its place kept, or a copy without the texts of a PNG that bear one of OWN_NAMES."""
    place = file.tell() if start is None else start
    file.seek(place)
    at, end, dropped = place + 8, 0, []
    if file.read(8) == b"\x89PNG\r\n\x1a\n":
        end = file.seek(0, os.SEEK_END)
    while at + 12 <= end:
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[:4], "big")
        if head[4:] in TEXTS:
            name, _, value = file.read(min(length, 100)).partition(b"\0")
            if name in OWN_NAMES and not value.startswith(b"Exif\0\0"):
                dropped.append((at, at + 12 + length))
        at += 12 + length
    file.seek(place)
    if not dropped:
        return file
    kept, at = [], place
    for first, last in dropped:
        file.seek(at)
        kept.append(file.read(first - at))
        at = last
    file.seek(at)
    return BytesIO(b"".join([*kept, file.read()]))


def _has_narrow_key(image: Any) -> bool:
    """Whether an opened PNG, not read yet, has grey pixels of 2 or 4 bits and a transparent grey."""
    if not isinstance(image, PngImagePlugin.PngImageFile) or not image.tile or image.mode != "L":
        return False
    return image.tile[0].args in GREY_BITS and isinstance(image.info.get("transparency"), int)


def _may_have_lost_its_key(image: Any) -> bool:
    """Whether a grey PNG that was read has a transparent grey that only its own 2 or 4 bits would show."""
    key = image.info.get("transparency")
    if not isinstance(image, PngImagePlugin.PngImageFile) or image.mode != "L" or not isinstance(key, int):
        return False
    greys = {grey for grey, count in enumerate(image.histogram()) if count}
    steps = (255 // (2**bits - 1) for bits in GREY_BITS.values())
    return any(0 < key < 255 // step and key * step in greys and not any(g % step for g in greys) for step in steps)


def _widen_key(image: Any) -> None:
    """Makes a transparent grey of 2 or 4 bits one of 8, as Pillow does with the pixels but not with the key."""
    if _has_narrow_key(image):
        largest = 2 ** GREY_BITS[image.tile[0].args] - 1
        image.info["transparency"] = (image.info["transparency"] & largest) * 255 // largest


def has_wide_key(image: Any) -> bool:
    """Whether an opened PNG, not read yet, has RGB pixels of 16 bits and a transparent colour."""
    if not isinstance(image, PngImagePlugin.PngImageFile) or not image.tile or image.mode != "RGB":
        return False
    return image.tile[0].args == "RGB;16B" and isinstance(image.info.get("transparency"), tuple)


def key_as_alpha(image: Any, file: Any) -> Any:
    """An opened picture whose transparent colour of 16 bits is in its alpha: Pillow compares it with 8 bits. Others
    are returned unchanged."""
    if not has_wide_key(image):
        return image
    key, place = image.info.pop("transparency"), file.tell()
    with Image.open(file, formats=["PNG"]) as low:
        low.tile = [ImageFile._Tile(*tile[:3], "RGB;16L") for tile in low.tile]  # the other byte of each number
        low.load()
        lower = np.asarray(low)
    file.seek(place)
    image.load()
    clear = (np.asarray(image) == [value >> 8 for value in key]).all(-1)
    clear &= (lower == [value & 255 for value in key]).all(-1)
    image.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return image
