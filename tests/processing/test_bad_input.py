"""Bad and odd pictures, one row each: what goes in, and which error in words or which pixels come out.

A row is (source, options, expected): expected is (error type, fragment of its message), a colour that every pixel has,
or a size (width, height). Sources that need work to make are functions.
"""

import io
import os
import pathlib
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from mm import MediaDecodeError, MMImageProcessorPil
from mm.processing.images.load import load_image

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)
NAN, INF = float("nan"), float("inf")


def flat(colour: Any = (200, 30, 90), mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new(mode, size, colour)


def encoded(image: Image.Image, fmt: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"", *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + (
        b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02D\x01\0;"
    )  # fmt: skip


def exif(tag: int = 0x0112, value: Any = 6) -> Image.Exif:
    block = Image.Exif()
    block[tag] = value
    return block


def half_hidden(mode: str) -> Image.Image:
    """Wholly transparent red, in a mode that can say so."""
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    if mode == "P":
        palette = Image.new("P", (8, 8), 0)
        palette.putpalette([255, 0, 0])
        palette.info["transparency"] = 0
        return palette
    if mode in ("RGB", "L", "1"):
        plain = image.convert("RGB").convert(mode)
        plain.info["transparency"] = {"RGB": (255, 0, 0), "L": 76, "1": plain.getpixel((0, 0))}[mode]
        return plain
    return image.convert("LA").convert("La") if mode == "La" else image.convert(mode)


def cut(fmt: str, share: float) -> bytes:
    raw = encoded(Image.fromarray(NOISE), fmt)
    return raw[: int(len(raw) * share)]


class Unseekable(io.RawIOBase):
    """A stream such as a pipe or a response: read once, from front to back."""

    def __init__(self, data: bytes):
        super().__init__()
        self.data = io.BytesIO(data)

    def readable(self):
        return True

    def read(self, size: int = -1):
        return self.data.read(size)


def srgb_like() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def wide(dtype: str, value: float) -> np.ndarray:
    return np.full((9, 8), value, dtype)


RED, WHITE, BLACK, GREY = (255, 0, 0), (255, 255, 255), (0, 0, 0), (102, 102, 102)
COLOUR = (200, 30, 90)
WHOLE = "accepted are whole files of JPEG"

FILES: list[tuple] = [
    (b"", {}, (MediaDecodeError, "the 0 bytes given")),
    (b"\0", {}, (MediaDecodeError, WHOLE)),
    (b"not a picture", {}, (MediaDecodeError, WHOLE)),
    (b"\xff\xd8\xff", {}, (MediaDecodeError, WHOLE)),
    (b"\x89PNG\r\n\x1a\n", {}, (MediaDecodeError, WHOLE)),
    (b"GIF89a", {}, (MediaDecodeError, WHOLE)),
    (b"RIFF\0\0\0\0WEBP", {}, (MediaDecodeError, WHOLE)),
    (b"BM", {}, (MediaDecodeError, WHOLE)),
    (b"II*\0", {}, (MediaDecodeError, WHOLE)),
    (b"\0\0\0\x1cftypavif", {}, (MediaDecodeError, WHOLE)),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, (MediaDecodeError, WHOLE)),
    (b"%!PS-Adobe-3.0 EPSF-3.0", {}, (MediaDecodeError, WHOLE)),
    (b"%PDF-1.7", {}, (MediaDecodeError, WHOLE)),
    (b"SIMPLE  =                    T", {}, (MediaDecodeError, WHOLE)),
    (b"P6 1 1 255 abc", {}, (MediaDecodeError, WHOLE)),
    (b"PK\x03\x04", {}, (MediaDecodeError, WHOLE)),
    (b"\x1f\x8b\x08", {}, (MediaDecodeError, WHOLE)),
    (b"\xff" * 4096, {}, (MediaDecodeError, WHOLE)),
    *((lambda fmt=fmt: cut(fmt, 0.5), {}, (MediaDecodeError, fmt if fmt in ("JPEG", "PNG") else WHOLE))
      for fmt in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")),
    *((lambda fmt=fmt: cut(fmt, 0.1), {}, (MediaDecodeError, WHOLE))
      for fmt in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")),
    *((lambda fmt=fmt: encoded(flat(), fmt), {}, (MediaDecodeError, WHOLE))
      for fmt in ("PPM", "EPS", "ICO", "PDF", "TGA", "PCX", "SGI", "JPEG2000", "DDS", "ICNS", "IM")),
    *((lambda fmt=fmt: encoded(flat(), fmt, **({"quality": 100} if fmt == "AVIF" else {})), {"near": 3}, COLOUR)
      for fmt in ("PNG", "GIF", "BMP", "TIFF")),
    (lambda: encoded(flat((100, 100, 100)), "JPEG"), {"near": 1}, (100, 100, 100)),
    (lambda: encoded(flat((100, 100, 100)), "WEBP"), {"near": 2}, (100, 100, 100)),
    (lambda: encoded(flat((100, 100, 100)), "AVIF"), {"near": 2}, (100, 100, 100)),
    (lambda: encoded(flat(), "JPEG", progressive=True, quality=95), {"near": 4}, COLOUR),
    (lambda: encoded(flat(), "PNG") + b"trailing rubbish", {}, COLOUR),
    (lambda: encoded(flat(), "GIF", save_all=True, append_images=[flat(BLACK)]), {"near": 3}, COLOUR),
    (lambda: encoded(flat(), "WEBP", save_all=True, append_images=[flat(BLACK)], lossless=True), {}, COLOUR),
    (lambda: encoded(flat(), "PNG", save_all=True, append_images=[flat(BLACK)]), {}, COLOUR),
    (lambda: encoded(flat(), "TIFF", save_all=True, append_images=[flat(BLACK)]), {}, COLOUR),
    (lambda: encoded(flat(100, "L"), "JPEG"), {}, (100, 100, 100)),
    (lambda: encoded(flat((0, 0, 0, 155), "CMYK"), "JPEG"), {"near": 2}, (100, 100, 100)),
    (lambda: encoded(flat((0, 0, 0, 155), "CMYK"), "TIFF"), {"near": 2}, (100, 100, 100)),
    (lambda: encoded(flat(1, "1"), "PNG"), {}, WHITE),
    (lambda: encoded(flat(1, "1"), "TIFF", compression="group4"), {}, WHITE),
    (lambda: encoded(Image.fromarray(wide("uint16", 102 * 257)), "PNG"), {}, GREY),
    (lambda: encoded(Image.fromarray(wide("uint16", 102 * 257)), "TIFF"), {}, GREY),
    (lambda: encoded(Image.fromarray(wide("float32", 0.4)), "TIFF"), {}, GREY),
    (lambda: encoded(Image.fromarray(wide("int32", 102)), "TIFF"), {}, GREY),
    (lambda: encoded(Image.fromarray(wide("float32", 1e9)), "TIFF"), {}, (MediaDecodeError, "holds values up to")),
    (lambda: encoded(Image.fromarray(wide("float32", NAN)), "TIFF"), {}, (MediaDecodeError, "accepted are finite")),
    (lambda: encoded(half_hidden("P"), "PNG", transparency=0), {}, WHITE),
    (lambda: encoded(half_hidden("RGBA"), "WEBP", lossless=True), {}, WHITE),
    (lambda: encoded(half_hidden("RGBA"), "TIFF"), {"background": "black"}, BLACK),
    (lambda: encoded(half_hidden("RGB"), "PNG", transparency=(255, 0, 0)), {}, WHITE),
    (lambda: png(2, 1, 8, 2, b"\0" + bytes(COLOUR) * 2, chunk(b"tRNS", bytes(6))), {}, COLOUR),
    (lambda: encoded(flat(), "JPEG", exif=exif(), quality=95), {"near": 4}, COLOUR),
    (lambda: encoded(flat(size=(30, 10)), "JPEG", exif=exif()), {}, (10, 30)),
    (lambda: encoded(flat(size=(30, 10)), "PNG", exif=exif()), {}, (10, 30)),
    (lambda: encoded(flat(size=(30, 10)), "JPEG", exif=exif(value=99)), {}, (30, 10)),
    (lambda: encoded(flat(size=(30, 10)), "JPEG", exif=exif(value=0)), {}, (30, 10)),
    (lambda: encoded(flat(size=(30, 10)), "JPEG", exif=b"Exif\0\0garbage"), {}, (30, 10)),
    (lambda: encoded(flat(size=(30, 10)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), {}, (30, 10)),
    (lambda: encoded(flat(size=(30, 10)), "JPEG", exif=exif(tag=0x011A, value=(1, 0))), {}, (30, 10)),
    (lambda: encoded(flat(), "PNG", icc_profile=b"no profile"), {"use_icc": True}, COLOUR),
    (lambda: encoded(flat(), "PNG", icc_profile=srgb_like()), {"use_icc": True, "near": 1}, COLOUR),
    (lambda: encoded(flat(), "PNG", icc_profile=srgb_like()), {}, COLOUR),
    (lambda: png(9000, 9000), {}, (MediaDecodeError, r"81\.0 megapixels; max_pixels=64000000")),
    (lambda: png(60000, 60000), {}, (MediaDecodeError, "the .* bytes given")),
    (lambda: png(2**31 - 1, 2**31 - 1), {}, (MediaDecodeError, "the .* bytes given")),
    (lambda: png(0, 5), {}, (MediaDecodeError, "the .* bytes given")),
    (lambda: bmp(12000, 12000), {}, (MediaDecodeError, r"144\.0 megapixels")),
    (lambda: bmp(-5, 5), {}, (MediaDecodeError, "bytes given")),
    (lambda: gif(65535, 65535), {}, (MediaDecodeError, "bytes given")),
    (lambda: gif(12000, 9000), {}, (MediaDecodeError, r"108\.0 megapixels")),
    (lambda: encoded(flat()), {"max_pixels": 255}, (MediaDecodeError, "max_pixels=255 allows")),
    (lambda: encoded(flat()), {"max_pixels": 256}, COLOUR),
    (lambda: encoded(flat()), {"max_bytes": 30}, (MediaDecodeError, "max_bytes=30 allows")),
    (lambda: bytearray(encoded(flat())), {}, COLOUR),
    (lambda: memoryview(encoded(flat())), {}, COLOUR),
    (lambda: io.BytesIO(encoded(flat())), {}, COLOUR),
    (lambda: io.BytesIO(encoded(flat())), {"max_bytes": 30}, (MediaDecodeError, "the file object: it has")),
    (lambda: Unseekable(encoded(flat())), {}, COLOUR),
    (lambda: Unseekable(encoded(flat())), {"max_bytes": 30}, (MediaDecodeError, "the file object: it has")),
    (lambda: Unseekable(b""), {}, (MediaDecodeError, "the file object")),
    (lambda: io.StringIO("text"), {}, (MediaDecodeError, "the file object")),
]  # fmt: skip

STRINGS: list[tuple] = [
    ("no/such/file.png", {}, (FileNotFoundError, "no file at the path 'no/such/file.png'")),
    (pathlib.Path("no/such/file.png"), {}, (FileNotFoundError, "no file at the path")),
    (b"no/such/file.png", {}, (MediaDecodeError, "cannot decode the 16 bytes given")),
    ("", {}, (FileNotFoundError, "no file at the path ''")),
    (" ", {}, (FileNotFoundError, "no file")),
    ("nul\0byte", {}, (FileNotFoundError, "no file")),
    ("A" * 10000, {}, (FileNotFoundError, "no file")),
    ("iVBORw0KGgoAAAANSUhEUgAAAAUA", {}, (FileNotFoundError, "no file")),
    ("\ud800.png", {}, (FileNotFoundError, "no file")),
    (__file__ + "/picture.png", {}, (FileNotFoundError, "no file")),
    (__file__, {}, (MediaDecodeError, WHOLE)),
    (".", {}, (MediaDecodeError, "is a folder; a picture is one file")),
    ("/", {}, (MediaDecodeError, "is a folder")),
    (os.devnull, {}, (MediaDecodeError, "is a device, pipe or socket")),
    ("/dev/zero", {}, (MediaDecodeError, "is a device, pipe or socket")),
    ("http://127.0.0.1/a.png", {}, (ValueError, "not fetched without allow_urls=True")),
    ("https://example.org/a.png", {}, (ValueError, "not fetched without allow_urls=True")),
    ("file:///etc/passwd", {}, (ValueError, "strings are paths")),
    ("ftp://example.org/a.png", {}, (ValueError, "strings are paths")),
    ("http://127.0.0.1/a.png", {"allow_urls": True}, (MediaDecodeError, "only public addresses are fetched")),
    ("file:///etc/passwd", {"allow_urls": True}, (MediaDecodeError, "accepted are http:// and https://")),
    ("data:image/png;base64,AAAA", {}, (MediaDecodeError, "cannot decode 'data:image/png;base64,AAAA'")),
    ("data:text/plain;base64,AAAA", {}, (MediaDecodeError, "its type is 'text/plain'")),
    ("data:image/png;base64,*", {}, (MediaDecodeError, "its base64 text is broken")),
    ("data:image/png,AAAA", {}, (MediaDecodeError, "data URLs are data:image/...;base64")),
]

OBJECTS: list[tuple] = [
    *((value, {}, (TypeError, f"a picture is a path, .*; got {type(value).__name__}"))
      for value in (None, 5, 0.5, True, {}, [], (), set(), object, b"x".decode, 3j)),
]  # fmt: skip

IMAGES: list[tuple] = [
    (flat(), {}, COLOUR),
    (flat(77, "L"), {}, (77, 77, 77)),
    (flat(1, "1"), {}, WHITE),
    (flat(0, "1"), {}, BLACK),
    (flat((0, 0, 0, 155), "CMYK"), {"near": 1}, (100, 100, 100)),
    (flat((76, 85, 255), "YCbCr"), {"near": 2}, RED),
    (flat((0, 255, 255), "HSV"), {}, RED),
    (flat((255, 128, 128), "LAB"), {"near": 2}, WHITE),
    (flat((9, 8, 7, 0), "RGBX"), {}, (9, 8, 7)),
    *((half_hidden(mode), {}, WHITE) for mode in ("RGBA", "RGBa", "LA", "La", "PA", "P", "RGB", "L")),
    (half_hidden("RGBA"), {"background": (1, 2, 3)}, (1, 2, 3)),
    (half_hidden("RGBA"), {"background": "#0a141e"}, (10, 20, 30)),
    (flat((255, 0, 0, 128), "RGBA"), {"near": 1}, (255, 127, 127)),
    (Image.fromarray(wide("uint16", 65535)), {}, WHITE),
    (Image.fromarray(wide("uint16", 102 * 257)), {}, GREY),
    (Image.fromarray(wide(">u2", 102 * 257)), {}, GREY),
    (Image.fromarray(wide("int32", 102)), {}, GREY),
    (Image.fromarray(wide("int32", 102 * 257)), {}, GREY),
    (Image.fromarray(wide("float32", 0.4)), {}, GREY),
    (Image.fromarray(wide("float32", 102)), {}, GREY),
    (Image.fromarray(wide("float32", 0)), {}, BLACK),
    (Image.fromarray(wide("int32", -1)), {}, (MediaDecodeError, "mode I holds values in -1")),
    (Image.fromarray(wide("int32", 70000)), {}, (MediaDecodeError, "mode I holds values up to 70000")),
    (Image.fromarray(wide("float32", -1)), {}, (MediaDecodeError, "mode F holds values in -1")),
    (Image.fromarray(wide("float32", 256)), {}, (MediaDecodeError, "mode F holds values up to 256")),
    (Image.fromarray(wide("float32", NAN)), {}, (MediaDecodeError, "accepted are finite")),
    (Image.fromarray(wide("float32", INF)), {}, (MediaDecodeError, "accepted are finite")),
    (Image.new("RGB", (0, 4)), {}, (MediaDecodeError, "there are no pixels")),
    (Image.new("RGB", (4, 0)), {}, (MediaDecodeError, "there are no pixels")),
    (flat(), {"max_pixels": 255}, (MediaDecodeError, "max_pixels=255 allows")),
    (lambda: Image.open(io.BytesIO(cut("JPEG", 0.95))), {}, (MediaDecodeError, "the PIL image")),
    (lambda: Image.open(io.BytesIO(encoded(flat(size=(30, 10)), "JPEG", exif=exif()))), {}, (10, 30)),
    (flat(size=(1, 1)), {}, COLOUR),
    (flat(size=(1, 500)), {}, (1, 500)),
    (flat(size=(20000, 2)), {}, (20000, 2)),
    (flat(), {"background": "no such colour"}, (ValueError, "unknown color")),
    (flat(), {"background": (1, 2)}, (ValueError, r"three integers in 0\.\.255")),
    (flat(), {"background": (1, 2, 256)}, (ValueError, r"three integers in 0\.\.255")),
    (flat(), {"background": (0.5, 0.5, 0.5)}, (ValueError, r"three integers in 0\.\.255")),
]

SHAPE = "an array picture is"
ARRAYS: list[tuple] = [
    (np.full((9, 8, 3), COLOUR, np.uint8), {}, COLOUR),
    (np.full((9, 8, 3), COLOUR, np.uint8).transpose(2, 0, 1), {}, COLOUR),
    (np.full((9, 8, 3), COLOUR, np.uint8)[::-1, ::-1], {}, COLOUR),
    (np.full((9, 8, 3), COLOUR[::-1], np.uint8), {"channel_order": "bgr"}, COLOUR),
    (np.full((9, 8, 3), COLOUR, np.uint8), {"channel_order": "rbg"}, (ValueError, "channel_order='rbg'")),
    (wide("uint8", 102), {}, GREY),
    (wide("uint8", 102)[..., None], {}, GREY),
    (wide("uint8", 102)[None], {}, GREY),
    (wide("uint16", 102 * 257), {}, GREY),
    (wide("bool", True), {}, WHITE),
    (wide("float16", 0.4), {}, GREY),
    (wide("float32", 0.4), {}, GREY),
    (wide("float64", 0.4), {}, GREY),
    (wide("float64", 102), {"input_range": 255}, GREY),
    (wide("float64", 0.4), {"input_range": 1}, GREY),
    (wide("int64", 102), {"input_range": 255}, GREY),
    (wide("int16", 102), {"input_range": 255}, GREY),
    (wide("uint16", 102), {"input_range": 255}, GREY),
    (wide("int64", 300), {"input_range": 255}, (ValueError, r"pictures of int64 are in 0\.\.255; got 300\.\.300")),
    (wide("float64", 256), {"input_range": 255}, (ValueError, r"in 0\.\.255; got 256")),
    (wide("float64", 0.4), {"input_range": 128}, (ValueError, "input_range=128; accepted are 1 and 255")),
    (wide("float64", 255), {}, (ValueError, r"floating pictures are in 0\.\.1; got 255\.\.255.*input_range=255")),
    (wide("float32", 1.01), {}, (ValueError, r"in 0\.\.1; got 1\.01")),
    (wide("float32", -0.01), {}, (ValueError, r"in 0\.\.1; got -0\.01")),
    (wide("float32", NAN), {}, (MediaDecodeError, "NaN or Inf")),
    (wide("float32", INF), {}, (MediaDecodeError, "NaN or Inf")),
    (wide("float32", -INF), {"input_range": 255}, (MediaDecodeError, "NaN or Inf")),
    (wide("int16", 5), {}, (ValueError, "uint8, uint16, bool or floating; got int16")),
    (wide("int64", 5), {}, (ValueError, "got int64. input_range=255 reads")),
    (wide("complex64", 1), {}, (ValueError, "got complex64")),
    (wide("object", 1), {}, (ValueError, "got object")),
    (np.array([["a"]]), {}, (ValueError, "got <U1")),
    (np.zeros((0, 50, 3), np.uint8), {}, (MediaDecodeError, r"no size 0; got shape \(0, 50, 3\)")),
    (np.zeros((5, 0), np.uint8), {}, (MediaDecodeError, "no size 0")),
    (np.zeros((), np.uint8), {}, (ValueError, SHAPE)),
    (np.zeros(7, np.uint8), {}, (ValueError, SHAPE)),
    (np.zeros((1, 9, 9, 3), np.uint8), {}, (ValueError, SHAPE)),
    (np.zeros((9, 9, 2), np.uint8), {}, (ValueError, r"\(1, 3, 4\) channels, first or last")),
    (np.zeros((5, 9, 9), np.uint8), {}, (ValueError, "channels, first or last")),
    (np.zeros((1, 500, 3), np.uint8), {}, (ValueError, "say input_data_format")),
    (np.zeros((3, 3, 3), np.uint8), {}, (ValueError, "say input_data_format")),
    (np.zeros((1, 1, 3), np.uint8), {}, (ValueError, "say input_data_format")),
    (np.zeros((4, 9, 3), np.uint8), {}, (ValueError, "say input_data_format")),
    (np.zeros((1, 500, 3), np.uint8), {"input_data_format": "channels_last"}, (500, 1)),
    (np.zeros((1, 500, 3), np.uint8), {"input_data_format": "channels_first"}, (3, 500)),
    (np.zeros((9, 9, 3), np.uint8), {"input_data_format": "channels_first"}, (ValueError, "with input_data_format")),
    (np.zeros((9, 9, 3), np.uint8), {"input_data_format": "HWC"}, (ValueError, "got 'HWC'")),
    (np.full((9, 8, 4), (255, 0, 0, 0), np.uint8), {}, WHITE),
    (np.full((9, 8, 4), (255, 0, 0, 0), np.uint8), {"background": "black"}, BLACK),
    (np.full((9, 8, 4), (1, 0, 0, 0.0)), {}, WHITE),
    (np.broadcast_to(np.uint8(0), (8001, 8000)), {}, (MediaDecodeError, r"64\.0 megapixels; max_pixels")),
    (np.ma.masked_array(wide("uint8", 102), mask=False), {}, GREY),
    (torch.full((3, 9, 8), 0.4), {}, GREY),
    (torch.full((3, 9, 8), 0.4, dtype=torch.float16), {}, GREY),
    (torch.full((3, 9, 8), 0.4, dtype=torch.bfloat16), {"near": 1}, GREY),
    (torch.full((3, 9, 8), 0.4, requires_grad=True), {}, GREY),
    (torch.full((9, 8, 3), 102, dtype=torch.uint8), {}, GREY),
    (torch.full((9, 8), 102, dtype=torch.uint8), {}, GREY),
    (torch.ones(9, 8, dtype=torch.bool), {}, WHITE),
    (torch.full((3, 9, 8), NAN), {}, (MediaDecodeError, "NaN or Inf")),
    (torch.full((3, 9, 8), NAN, dtype=torch.bfloat16), {}, (MediaDecodeError, "NaN or Inf")),
    (torch.full((3, 9, 8), 255.0), {}, (ValueError, r"in 0\.\.1")),
    (torch.full((3, 9, 8), 5), {}, (ValueError, "got int64")),
    (torch.zeros(2, 9, 8), {}, (ValueError, "channels, first or last")),
    (torch.zeros(3, 9, 8).to_sparse(), {}, (ValueError, "array pictures are uint8")),
    (torch.zeros(3, 9, 8, device="meta"), {}, (ValueError, "array pictures are uint8")),
    (torch.zeros(3, 9, 8, dtype=torch.complex64), {}, (ValueError, "got complex64")),
    (torch.zeros(3, 9, 8).to(torch.float8_e4m3fn), {}, (ValueError, "float8_e4m3fn")),
]

ROWS = [*FILES, *STRINGS, *OBJECTS, *IMAGES, *ARRAYS]


def test_the_table_is_long_enough():
    assert len(ROWS) >= 150


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on the damage it finds
@pytest.mark.parametrize("row", range(len(ROWS)))
def test_every_source_gives_its_pixels_or_its_error_in_words(row):
    source, options, expected = ROWS[row]
    source = source() if callable(source) and getattr(source, "__name__", "") == "<lambda>" else source
    options = dict(options)
    near = options.pop("near", 0)
    if isinstance(expected[0], type):
        with pytest.raises(expected[0], match=expected[1]):
            load_image(source, **options)
        return
    image = load_image(source, **options)
    assert image.mode == "RGB" and not image.info.get("exif")
    if len(expected) == 2:
        assert image.size == expected
    else:
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= near


CALLS = [
    ([], ValueError, "no images"),
    ([[]], ValueError, "no images"),
    ([[], []], ValueError, "no images"),
    (None, TypeError, r"images\[0\]: a picture is a path"),
    ([None], TypeError, r"images\[0\]: .*got NoneType"),
    ([flat(), None], TypeError, r"images\[1\]: .*got NoneType"),
    ([flat(), 5], TypeError, r"images\[1\]: .*got int"),
    ({}, TypeError, r"images\[0\]: .*got dict"),
    ([flat(), b"broken"], MediaDecodeError, r"images\[1\]: cannot decode the 6 bytes"),
    ([flat(), "missing.png"], FileNotFoundError, r"images\[1\]: no file"),
    ([flat(), wide("float64", 255)], ValueError, r"images\[1\]: floating pictures"),
    (np.zeros((2, 3, 3, 3), np.uint8), ValueError, r"images\[0\]: .*say input_data_format"),
    (np.zeros((0, 9, 9, 3), np.uint8), ValueError, "no images"),
    (np.zeros((2, 2, 9, 9, 3), np.uint8), ValueError, r"images\[0\]: an array picture is"),
    ("https://example.org/a.png", ValueError, r"images\[0\]: strings are paths"),
]


@pytest.mark.parametrize(("images", "kind", "message"), CALLS)
def test_every_bad_call_of_the_image_processor_says_which_picture(images, kind, message):
    with pytest.raises(kind, match=message):
        MMImageProcessorPil(size={"height": 8, "width": 8})(images)


def test_no_warning_is_an_answer():
    """Bad layouts and ranges raise: a warning would go unread."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (wide("float32", 0.4), wide("uint16", 500), flat(1, "1"), half_hidden("P")):
            load_image(source)
