"""Good files that Pillow reads wrong: the same pixels by path, by bytes and as an opened picture, or a word."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mm import MediaDecodeError, MMImageProcessorPil
from mm.processing.images.load import load_image
from mm.processing.videos.load import load_video

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 9), dtype=np.uint8)


def pixels(source: Any, **options: Any) -> np.ndarray:
    return np.asarray(load_image(source, **options))


def of_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(GREY.astype(np.uint16) * 257)
    channels = {"L": 1, "P": 1, "1": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    values = RNG.integers(0, 256, (5, 9, channels), dtype=np.uint8)
    if mode == "P":
        picture = Image.fromarray(values[..., 0] % 4).convert("P")
        picture.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
        return picture
    return Image.fromarray(values[..., 0] if channels == 1 else values, mode if channels == 4 else None).convert(mode)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("orientation", [2, 5, 6, 7, 8])
@pytest.mark.parametrize("mode", ["L", "I;16", "P", "1", "RGB", "RGBA", "CMYK"])
def test_turned_tiffs_are_the_same_by_path_by_bytes_and_opened(tmp_path, mode, orientation):
    path = tmp_path / "turned.tif"
    of_mode(mode).save(path, tiffinfo={274: orientation})
    expected = pixels(path.read_bytes())
    assert expected.shape == ((9, 5, 3) if orientation > 4 else (5, 9, 3))
    assert np.array_equal(pixels(path), expected)
    opened = Image.open(path)
    for _ in range(2):  # it is not changed by being read
        assert np.array_equal(pixels(opened), expected)
    assert np.array_equal(pixels(Image.open(io.BytesIO(path.read_bytes()))), expected)
    processor = MMImageProcessorPil(size={"height": 8, "width": 8})
    one, other = (processor(source, return_tensors="np")["pixel_values"] for source in (path, Image.open(path)))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_turned_tiff_that_was_read_is_right_or_refused_in_words(tmp_path, mode):
    path = tmp_path / "turned.tif"
    of_mode(mode).save(path, tiffinfo={274: 6})
    opened = Image.open(path)
    opened.load()
    if mode == "RGB":  # Pillow reads these right
        assert np.array_equal(pixels(opened), pixels(path))
        return
    with pytest.raises(MediaDecodeError, match="Pillow has scrambled it, .*: give the path itself, or its bytes"):
        load_image(opened)
    of_mode(mode).save(path)
    plain = Image.open(path)
    plain.load()
    assert np.array_equal(pixels(plain), pixels(path))


def tiff(values: np.ndarray, photometric: int = 1, order: str = "<", bits: int | None = None) -> bytes:
    """An uncompressed TIFF of one grey plane, of the type of its array."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = (values if order == "<" else values.byteswap()).tobytes()
    height, width = values.shape
    entries = [(256, width), (257, height), (258, bits or 8 * values.itemsize), (259, 1), (262, photometric), (273, 0),
               (277, 1), (278, height), (279, len(data)), (339, kind)]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    body = b"".join(struct.pack(order + "HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in entries)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    return head + body + bytes(4) + data


RAMP = np.arange(256).reshape(16, 16)
TIFFS = {
    "8 bits, 0 is white": tiff((255 - RAMP).astype(np.uint8), 0),
    "16 bits, 0 is white": tiff((65535 - 257 * RAMP).astype(np.uint16), 0),
    "16 bits": tiff((257 * RAMP).astype(np.uint16)),
    "16 bits, big-endian": tiff((257 * RAMP).astype(np.uint16), order=">"),
    "floats, 0 is white": tiff((1 - RAMP / 255).astype(np.float32), 0),
    "floats, 0 is white, big-endian": tiff((1 - RAMP / 255).astype(np.float32), 0, ">"),
    "floats in 0..255, 0 is white": tiff((255 - RAMP).astype(np.float32), 0),
    "signed 8 bits": tiff((RAMP // 2).astype(np.int8)),
    "signed 16 bits": tiff((RAMP * 257 // 2).astype(np.int16)),
    "32 bits": tiff((RAMP * 257).astype(np.uint32)),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_grey_tiffs_of_every_type_span_their_range_and_are_no_negatives(kind):
    expected = RAMP // 2 * 255 / 127 if kind == "signed 8 bits" else RAMP
    for source in (TIFFS[kind], Image.open(io.BytesIO(TIFFS[kind]))):
        found = pixels(source)
        assert np.abs(found[..., 1].astype(float) - expected).max() <= 1
        assert (found[..., 0] == found[..., 1]).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[-128, -1, 0, 127]], np.int8), r"a TIFF of signed 8 bits holds values in -128\.\.127"),
        (np.array([[-1, 5, 0, 127]], np.int16), r"a TIFF of signed 16 bits holds values in -1\.\.127"),
        (np.array([[0, 4_000_000_000]], np.uint32), r"a TIFF of unsigned 32 bits holds values up to 4000000000"),
        (np.array([[0, -0.5]], np.float32), r"a TIFF of floating 32 bits holds values in -0\.5\.\.0\.0"),
    ],
)
def test_other_numbers_are_named_as_the_file_holds_them(values, message):
    with pytest.raises(MediaDecodeError, match=message):
        load_image(tiff(values))


# -------------------------------------------------------------------------------------------------------------- PNG


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(values: np.ndarray, key: tuple[int, ...] | None = None) -> bytes:
    """Of 16 bits, grey (H, W) or RGB (H, W, 3), with a transparent colour."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2 * (values.ndim == 3), 0, 0, 0)
    keys = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + keys + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


NEAR = np.array([[[40000, 5, 6], [40001, 5, 6], [40000, 5, 261], [0, 0, 0]]], np.uint16)


def test_transparent_colours_of_16_bits_are_compared_in_16_bits():
    grey = png(NEAR[..., 0], (40000,))
    assert pixels(grey, background="red")[0].tolist() == [[255, 0, 0], [156] * 3, [255, 0, 0], [0] * 3]
    rgb = png(NEAR, (40000, 5, 6))
    expected = [[255, 255, 0], [156, 0, 0], [156, 0, 1], [0, 0, 0]]
    for source in (rgb, io.BytesIO(rgb), Image.open(io.BytesIO(rgb))):
        assert pixels(source, background="yellow")[0].tolist() == expected
    small = png(NEAR // 40000 + np.uint16(4), (4, 4, 4))  # looks like a colour of 8 bits
    assert pixels(small, background="yellow")[0].tolist() == [[0] * 3] * 3 + [[255, 255, 0]]
    read = Image.open(io.BytesIO(grey))
    read.load()
    assert pixels(read, background="red")[0].tolist() == pixels(grey, background="red")[0].tolist()


def test_one_that_was_read_in_8_bits_is_refused_where_it_may_be_transparent():
    read = Image.open(io.BytesIO(png(NEAR, (40000, 5, 6))))
    read.load()
    with pytest.raises(MediaDecodeError, match="transparent colour has 16 bits.*path or bytes"):
        load_image(read)
    opaque = Image.open(io.BytesIO(png(NEAR, (1000, 5, 6))))
    opaque.load()
    assert pixels(opaque).tolist() == pixels(png(NEAR)).tolist()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_greys_of_few_bits_are_those_of_the_file(tmp_path, bits):
    largest = 2**bits - 1
    greys = np.arange(8) % (largest + 1)
    row = np.packbits(np.unpackbits(greys.astype(np.uint8)[:, None], axis=1)[:, -bits:].ravel()).tobytes()
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0), b"tRNS": struct.pack(">H", 1),
        b"IDAT": zlib.compress(b"\0" + row), b"IEND": b"",
    }  # fmt: skip
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items())
    path = tmp_path / "grey.png"
    path.write_bytes(data)
    expected = np.repeat(greys[:, None] * 255 // largest, 3, 1)
    expected[greys == 1] = 255, 0, 0
    for source in (path, data, io.BytesIO(data), Image.open(path), Image.open(io.BytesIO(data))):
        assert np.array_equal(pixels(source, background="red")[0], expected)
    assert np.array_equal(load_video(data, background="red")[0], expected[None])
    read = Image.open(path)
    read.load()
    if bits in (2, 4):
        with pytest.raises(MediaDecodeError, match="transparent grey seems to have 2 or 4 bits"):
            load_image(read)
    else:
        assert np.array_equal(pixels(read, background="red")[0], expected)


NAMES = "transparency interlace exif xmp icc_profile gamma dpi duration bbox default_image loop progressive".split()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt"])
def test_texts_of_a_png_may_have_any_name(name, at_the_end, kind):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = 6
    picture = Image.new("RGB", (6, 4), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 3, 2))
    picture.save(buffer, "PNG", exif=exif, transparency=(255, 0, 0))
    plain = buffer.getvalue()
    content = {"tEXt": b"\0yes", "zTXt": b"\0\0" + zlib.compress(b"yes"), "iTXt": b"\0\0\0\0\0yes"}[kind]
    text = chunk(kind.encode(), name.encode() + content)
    place = plain.index(b"IEND") - 4 if at_the_end else plain.index(b"IDAT") - 4
    data = plain[:place] + text + plain[place:]
    expected = pixels(plain)
    assert expected.shape == (6, 4, 3) and (expected == 255).all(-1).any()
    for source in (data, io.BytesIO(data), Image.open(io.BytesIO(data))):
        assert np.array_equal(pixels(source, use_icc=True), expected)
    assert len(load_video(data)) == 1


def test_other_texts_and_a_place_in_a_file_are_kept(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "a", zip=True)
    info.add_text("duration", "long")
    path = tmp_path / "a.png"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, pnginfo=info)
    assert [frame.getpixel((0, 0)) for frame in load_video(path)] == [(255, 0, 0), (0, 255, 0)]
    opened = Image.open(path)
    assert pixels(opened)[0, 0].tolist() == [255, 0, 0]
    opened.seek(1)
    assert pixels(opened)[0, 0].tolist() == [0, 255, 0]
