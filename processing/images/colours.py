"""Any mode of Pillow's to upright RGB with 8 bits per channel.

    EXIF ── turned upright        alpha, tRNS ── laid on the background
    ICC  ── to sRGB, on demand    I;16, I, F  ── to 8 bits by their range

Large pictures are processed in strips, so that only a strip is held twice.
"""

from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageColor

from .limits import DECODER_FAULTS, MediaDecodeError

STRIP_PIXELS = 2**20

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


def rgb_colour(colour: Colour) -> tuple[int, int, int]:
    """A colour name, "#rrggbb" or three integers in 0..255 as (red, green, blue). Raises ValueError on others."""
    words = f"a colour is a name such as 'white' or three integers in 0..255; got {colour!r}"
    if isinstance(colour, str):
        try:
            red, green, blue = ImageColor.getrgb(colour)[:3]
        except ValueError as fault:
            raise ValueError(f"{words} ({fault})") from None
        return red, green, blue
    is_three = isinstance(colour, Sequence) and len(colour) == 3
    if not is_three or not all(isinstance(value, int) and 0 <= value <= 255 for value in colour):
        raise ValueError(words)
    red, green, blue = colour
    return red, green, blue


def check_mode(image: Image.Image, convert_rgb: bool) -> None:
    """Raises MediaDecodeError for a picture of another mode than RGB that is not to be converted."""
    if not convert_rgb and image.mode != "RGB":
        raise MediaDecodeError(f"its mode is {image.mode}, and do_convert_rgb=False takes only RGB pictures")


def strips(width: int, height: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of strips of some STRIP_PIXELS that cover `height` rows."""
    rows = max(1, STRIP_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def upright_rgb(
    image: Image.Image, colour: tuple[int, int, int], *, use_icc: bool = False, own: bool = False
) -> Image.Image:
    """`image` in RGB, turned as its EXIF says.

    If it fits it is returned unchanged. It is never modified in place unless it is `own`, which saves the memory of a
    copy.
    """
    image.load()
    turn = UPRIGHT.get(orientation(image))
    rgb = on_background(_in_srgb(image) if use_icc else image, colour, own=own)
    if turn is not None:
        rgb = rgb.transpose(turn)
    if rgb is not image:
        rgb.info = {}  # transpose and convert hand the EXIF on, and a second reading would turn the picture again
    return rgb


def orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 (upright) without one or with a broken EXIF block."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_FAULTS:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _in_srgb(image: Image.Image) -> Image.Image:
    """`image` by its colour profile in sRGB, its alpha kept; unchanged without a profile, or with a broken one."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        plain = image.convert("RGB") if image.mode == "RGBA" else image
        seen = ImageCms.profileToProfile(plain, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, *DECODER_FAULTS):
        return image
    if seen is None:
        return image
    if image.mode == "RGBA":
        seen.putalpha(image.getchannel("A"))
    return seen


def on_background(image: Image.Image, colour: tuple[int, int, int], own: bool = False) -> Image.Image:
    """`image` of any mode in RGB, its transparent pixels filled from `colour`."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")) or _is_signed(image):
        return _on_colour(_wide_grey(image).convert("RGB"), image, colour)
    image, own = (image, own) if _has_sound_key(image) else (_without_key(image), False)
    if not image.has_transparency_data:
        return image.convert("RGB")
    in_place = own and image.mode in ("RGB", "RGBA")
    flat = image if in_place else Image.new("RGB", image.size)
    for top, bottom in strips(*image.size):
        box = (0, top, image.width, bottom)
        strip = image.crop(box)
        rgba = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
        canvas = Image.new("RGB", rgba.size, colour)
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        flat.paste(canvas, box)
    flat.info.pop("transparency", None)
    return _without_alpha(flat)


def _without_alpha(image: Image.Image) -> Image.Image:
    """An opaque RGBA image as RGB, in the same memory where this Pillow can (as `putalpha` does it)."""
    if image.mode != "RGBA":
        return image
    try:
        image.im.setmode("RGB")
    except (AttributeError, ValueError):
        return image.convert("RGB")
    return image._new(image.im)


def _has_sound_key(image: Image.Image) -> bool:
    """Whether what says the transparent colour is what Pillow makes of a tRNS chunk or a GIF, if anything does."""
    key = image.info.get("transparency")
    if key is None or image.mode != "RGB":
        return key is None or isinstance(key, (int, bytes))
    return isinstance(key, tuple) and len(key) == 3 and max(key) <= 255


def _without_key(image: Image.Image) -> Image.Image:
    """A copy without the transparent colour: a text, or a colour of 16 bits. Raises MediaDecodeError if the picture
    may show a colour of 16 bits, because only 8 of them are left."""
    key = image.info["transparency"]
    if isinstance(key, tuple) and image.mode == "RGB":
        high = [value >> 8 for value in key]
        if any((np.asarray(image.crop((0, top, image.width, bottom))) == high).all(-1).any()
               for top, bottom in strips(*image.size)):  # fmt: skip
            raise MediaDecodeError(
                "its transparent colour has 16 bits, but it was read with 8, so the transparent pixels are unknown: "
                "give its path or bytes, or the image before it is read"
            )
    image = image.copy()
    del image.info["transparency"]
    return image


def _on_colour(rgb: Image.Image, image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """`rgb`, made of a wider grey image, with `colour` where that has the transparent grey of its tRNS chunk."""
    key = image.info.get("transparency")
    if isinstance(key, int):
        for top, bottom in strips(*image.size):
            clear = np.asarray(image.crop((0, top, image.width, bottom))) == key
            rgb.paste(colour, (0, top), Image.fromarray(clear.astype(np.uint8) * np.uint8(255)))
    return rgb


def _tags(image: Image.Image) -> tuple[int, int, bool]:
    """(bits, kind of numbers, whether 0 is white) of an opened TIFF file; (0, 1, False) of others. The kinds are 1
    unsigned, 2 signed, 3 floating."""
    tags = getattr(image, "tag_v2", None)
    if tags is None or image.format != "TIFF":
        return 0, 1, False
    return tags.get(258, (1,))[0], tags.get(339, (1,))[0], tags.get(262) == 0


def _is_signed(image: Image.Image) -> bool:
    """Whether it is a TIFF of signed numbers of 8 bits, which Pillow takes for unsigned ones."""
    return image.mode == "L" and _tags(image)[:2] == (8, 2)


def _wide_grey(image: Image.Image) -> Image.Image:
    """An 8-bit grey image from a wider one: I;16 spans 0..65535; I and F span what their values show."""
    boxes = [(0, top, image.width, bottom) for top, bottom in strips(*image.size)]
    bits, kind, is_inverted = _tags(image)
    if image.mode.startswith("I;16"):
        factor = np.float32(255 / 4095 if bits == 12 else 1 / 257)
    else:
        factor = np.float32(_factor(image, boxes))
    grey = Image.new("L", image.size)
    for box in boxes:
        values = _numbers(image, box, bits, kind).astype(np.float32) * factor
        values = 255 - values if is_inverted else values  # Pillow does so with 8 bits only
        grey.paste(Image.fromarray(np.rint(values).astype(np.uint8)), box)
    return grey


def _numbers(image: Image.Image, box: tuple[int, int, int, int], bits: int, kind: int) -> np.ndarray:
    """What a part of it holds, of the type that its file says."""
    values = np.asarray(image.crop(box))
    if image.mode == "L":
        return values.view(np.int8)
    return values.view(np.uint32) if (image.mode, bits, kind) == ("I", 32, 1) else values


def _factor(image: Image.Image, boxes: list[tuple[int, int, int, int]]) -> float:
    """What an I, F or signed image is multiplied by to span 0..255. Raises MediaDecodeError for other values."""
    bits, kind, _ = _tags(image)
    parts = (_numbers(image, box, bits, kind) for box in boxes)
    ends = np.array([[values.min(), values.max()] for values in parts])
    low, high = ends.min(), ends.max()
    kinds = {1: "unsigned", 2: "signed", 3: "floating"}
    shown = f"a TIFF of {kinds.get(kind, 'other')} {bits} bits" if bits else f"mode {image.mode}"
    if not np.isfinite(ends).all() or low < 0:
        raise MediaDecodeError(f"{shown} holds values in {low}..{high}; accepted are finite ones from 0")
    if _is_signed(image):
        return 255 / 127
    if image.mode == "F" and high <= 1:
        return 255.0
    if high <= 255:
        return 1.0
    if image.mode == "I" and (bits, kind) == (16, 2):
        return 255 / 32767
    if image.mode == "I" and high <= 65535:
        return 1 / 257
    raise MediaDecodeError(
        f"{shown} holds values up to {high}; accepted are 0..255, and 0..65535 (whole numbers) or 0..1 (floats)"
    )
