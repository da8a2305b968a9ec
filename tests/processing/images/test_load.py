"""Reading pictures: every kind of source gives the same pixels, and every bad one a typed error in words."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mm.processing.images.load import FORMATS, MediaDecodeError, flat_pictures, load_image, rgb_colour

# Five rows of seven colours: any turn, flip or swap of channels shows.
PIXELS = (np.arange(5 * 7 * 3, dtype=np.uint16).reshape(5, 7, 3) * 37 % 251).astype(np.uint8)
ORIENTATION = 0x0112


def encoded(image, fmt="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def pixels(source, **options):
    image = load_image(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def png_header(width, height):
    """A PNG file that claims a size and holds next to nothing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_the_same_picture_from_any_source_gives_the_same_pixels(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(Image.fromarray(PIXELS)))
    raw = path.read_bytes()
    sources = [
        str(path),
        path,
        raw,
        bytearray(raw),
        memoryview(raw),
        io.BytesIO(raw),
        Image.open(path),
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS[::-1][::-1],
        PIXELS / 255,
        (PIXELS / 255).astype(np.float32),
        PIXELS.astype(np.uint16) * 257,
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        (torch.from_numpy(PIXELS) / 255).requires_grad_(),
    ]
    for source in sources:
        np.testing.assert_array_equal(pixels(source), PIXELS, err_msg=str(type(source)))


@pytest.mark.parametrize("fmt", FORMATS)
def test_each_accepted_format_is_read(fmt):
    flat = Image.new("RGB", (16, 16), (200, 30, 90))
    assert np.abs(pixels(encoded(flat, fmt)).astype(int) - (200, 30, 90)).max() <= 6


@pytest.mark.parametrize("fmt", ["PPM", "EPS", "ICO", "PDF"])
def test_other_formats_are_refused(fmt):
    with pytest.raises(MediaDecodeError, match="JPEG, PNG, WEBP"):
        load_image(encoded(Image.new("RGB", (16, 16)), fmt))


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_upright_from_file_and_pil_alike(fmt, orientation):
    stored = Image.new("RGB", (32, 16), "black")
    stored.paste("white", (0, 0, 8, 8))  # the top left corner, as stored
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    raw = encoded(stored, fmt, exif=exif)
    upright = pixels(raw)
    rows, columns = np.nonzero(upright[..., 0] > 128)
    top, left = rows.mean() < upright.shape[0] / 2, columns.mean() < upright.shape[1] / 2
    # where EXIF says that the stored top left corner belongs
    assert (top, left) == (orientation in (1, 2, 5, 6), orientation in (1, 4, 5, 8))
    assert (upright.shape[0] > upright.shape[1]) == (orientation >= 5)
    opened = Image.open(io.BytesIO(raw))
    np.testing.assert_array_equal(pixels(opened), upright)
    np.testing.assert_array_equal(pixels(load_image(opened)), upright)  # reading twice turns once


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on the damage it finds
def test_a_broken_exif_block_does_not_lose_the_picture():
    raw = encoded(Image.fromarray(PIXELS), exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    np.testing.assert_array_equal(pixels(raw), PIXELS)


def transparent(mode):
    """A picture of one red opaque pixel beside one hidden one, in a mode that can say so."""
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    rgba.putpixel((1, 0), (255, 0, 0, 0))
    if mode == "P":
        palette = Image.new("P", (2, 1))
        palette.putpalette([255, 0, 0, 0, 255, 0])
        palette.putpixel((1, 0), 1)
        palette.info["transparency"] = 1
        return palette
    if mode == "RGB":
        rgb = Image.new("RGB", (2, 1), (255, 0, 0))
        rgb.putpixel((1, 0), (0, 255, 0))
        rgb.info["transparency"] = (0, 255, 0)
        return rgb
    return rgba.convert("LA").convert("La") if mode == "La" else rgba.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA", "P", "RGB"])
@pytest.mark.parametrize(("background", "colour"), [("white", (255, 255, 255)), ((0, 0, 255), (0, 0, 255))])
def test_what_is_transparent_shows_the_background(mode, background, colour):
    image = transparent(mode)
    seen = pixels(image, background=background)
    assert tuple(seen[0, 1]) == colour
    assert seen[0, 0, 0] > seen[0, 0, 1] if "L" not in mode else tuple(seen[0, 0]) == (76, 76, 76)
    np.testing.assert_array_equal(pixels(load_image(image, background=background)), seen)


def test_half_transparent_pixels_are_mixed_with_the_background():
    image = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert np.abs(pixels(image)[0, 0].astype(int) - (255, 127, 127)).max() <= 1
    array = np.asarray(image)
    np.testing.assert_array_equal(pixels(array, input_data_format="channels_last"), pixels(image))


@pytest.mark.parametrize(
    ("image", "value"),
    [
        (Image.fromarray(np.full((2, 2), 257 * 100, np.uint16)), 100),
        (Image.fromarray(np.full((2, 2), 257 * 100, np.int32)), 100),
        (Image.fromarray(np.full((2, 2), 100, np.int32)), 100),
        (Image.fromarray(np.full((2, 2), 0.4, np.float32)), 102),
        (Image.fromarray(np.full((2, 2), 102.0, np.float32)), 102),
        (Image.new("1", (2, 2), 1), 255),
        (Image.new("L", (2, 2), 77), 77),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 155)), 100),
    ],
    ids=["I;16", "I wide", "I narrow", "F 0..1", "F 0..255", "1", "L", "CMYK"],
)
def test_grey_of_any_depth_keeps_its_brightness(image, value):
    assert np.abs(pixels(image).astype(int) - value).max() <= 1


def test_16_bit_files_keep_their_brightness():
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for fmt in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(encoded(Image.fromarray(grey), fmt)), pixels(grey))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (1, 5, 7)])
def test_one_channel_is_grey_and_bool_is_a_mask(shape):
    mask = np.zeros(shape, dtype=bool)
    mask.reshape(5, 7)[2, 3] = True
    seen = pixels(mask)
    assert seen.shape == (5, 7, 3) and seen[2, 3].tolist() == [255] * 3 and seen.sum() == 3 * 255
    np.testing.assert_array_equal(pixels(mask.astype(np.float32)), seen)


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    raw = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(raw)[0, 0].tolist() == [255, 0, 0]


def test_an_upright_rgb_image_is_returned_and_never_changed():
    image = Image.fromarray(PIXELS)
    image.info["note"] = "kept"
    assert load_image(image) is image and image.info == {"note": "kept"}
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = Image.open(io.BytesIO(encoded(image, exif=exif)))
    load_image(turned)
    assert turned.size == image.size and turned.getexif()[ORIENTATION] == 6


def test_a_file_object_stays_open():
    file = io.BytesIO(encoded(Image.fromarray(PIXELS)))
    load_image(file)
    assert not file.closed
    np.testing.assert_array_equal(pixels(file), PIXELS)


def test_ambiguous_layouts_are_read_as_told():
    array = PIXELS[:3, :3]
    np.testing.assert_array_equal(pixels(array, input_data_format="channels_last"), array)
    np.testing.assert_array_equal(pixels(array, input_data_format="channels_first"), array.transpose(1, 2, 0))


def test_draft_shrinks_jpeg_files_only_as_far_as_asked():
    picture = Image.radial_gradient("L").resize((640, 480)).convert("RGB")
    raw = encoded(picture, "JPEG", quality=95)
    assert load_image(raw).size == (640, 480)
    assert load_image(raw, draft_size=100).size == (160, 120)
    assert load_image(raw, draft_size=400).size == (640, 480)
    assert load_image(encoded(picture), draft_size=100).size == (640, 480)
    full = np.asarray(load_image(raw).resize((40, 30), Image.Resampling.BICUBIC), dtype=int)
    draft = np.asarray(load_image(raw, draft_size=100).resize((40, 30), Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(full - draft).max() <= 6


def test_the_pixel_limit_holds_before_anything_is_decoded():
    raw = png_header(8192, 8192)
    with pytest.raises(MediaDecodeError, match=r"8192 x 8192, 67\.1 megapixels; max_pixels=64000000"):
        load_image(raw)
    with pytest.raises(MediaDecodeError, match="max_pixels=20"):
        load_image(Image.fromarray(PIXELS), max_pixels=20)
    assert load_image(Image.fromarray(PIXELS), max_pixels=35).size == (7, 5)


def test_a_decompression_bomb_is_a_decode_error():
    with pytest.raises(MediaDecodeError):
        load_image(png_header(60000, 60000))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on the damage it finds
@pytest.mark.parametrize("fmt", FORMATS)
def test_broken_files_raise_one_typed_error_and_nothing_else(fmt):
    rng = np.random.default_rng(0)
    raw = encoded(Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)), fmt)
    refused = 0
    for _ in range(60):
        broken = bytearray(raw[: rng.integers(len(raw))] if rng.random() < 0.5 else raw)
        for place in rng.integers(0, max(len(broken), 1), 4):
            broken[place : place + 1] = bytes([rng.integers(256)])
        try:
            load_image(bytes(broken))
        except MediaDecodeError as fault:
            refused += 1
            assert "bytes given" in str(fault)
    assert refused


BAD_SOURCES = [
    (b"", MediaDecodeError, "the 0 bytes given: it is empty"),
    (b"not a picture", MediaDecodeError, "accepted are whole files of JPEG"),
    (io.StringIO("text"), MediaDecodeError, "the file object"),
    ("no/such/file.png", FileNotFoundError, "no file at the path 'no/such/file.png'"),
    ("A" * 10000, FileNotFoundError, "no file"),
    ("nul\0byte", FileNotFoundError, "no file"),
    (".", ValueError, "is a folder"),
    ("https://example.org/a.png", ValueError, "URLs are not fetched without allow_urls=True"),
    ("file:///a.png", ValueError, "strings are paths"),
    ("data:image/png;base64,AAAA", MediaDecodeError, "cannot decode 'data:image/png;base64,AAAA'"),
    (None, TypeError, "got NoneType"),
    (5, TypeError, "got int"),
    ({}, TypeError, "a picture is a path, bytes"),
    ([], TypeError, "got list"),
    (np.zeros((0, 5, 3), np.uint8), ValueError, r"no size 0; got shape \(0, 5, 3\)"),
    (np.zeros((2, 4, 5, 3), np.uint8), ValueError, r"got shape \(2, 4, 5, 3\)"),
    (np.zeros(7, np.uint8), ValueError, r"got shape \(7,\)"),
    (np.zeros((3, 9, 3), np.uint8), ValueError, "say input_data_format"),
    (np.zeros((1, 1, 3), np.uint8), ValueError, "say input_data_format"),
    (np.zeros((8, 9, 2), np.uint8), ValueError, r"\(1, 3, 4\) channels, first or last"),
    (np.zeros((5, 8, 9), np.uint8), ValueError, "channels, first or last"),
    (np.zeros((8, 9), np.int64), ValueError, "uint8, uint16, bool or floating; got int64"),
    (np.zeros((8, 9), complex), ValueError, "got complex128"),
    (np.full((8, 9), 255.0), ValueError, r"floating pictures are in 0\.\.1; got 255\.\.255"),
    (np.full((8, 9), -0.1), ValueError, r"in 0\.\.1"),
    (np.full((8, 9), np.nan), ValueError, "NaN or Inf"),
    (np.full((8, 9), np.inf), ValueError, "NaN or Inf"),
    (torch.full((3, 8, 9), float("nan"), dtype=torch.bfloat16), ValueError, "NaN or Inf"),
    (Image.fromarray(np.full((2, 2), 1e6, np.float32)), MediaDecodeError, "mode F holds values up to"),
    (Image.fromarray(np.full((2, 2), -1.0, np.float32)), MediaDecodeError, "mode F holds values in -1"),
    (Image.fromarray(np.full((2, 2), 70000, np.int32)), MediaDecodeError, "mode I holds values up to 70000"),
    (Image.new("RGB", (0, 4)), MediaDecodeError, "there are no pixels"),
]


@pytest.mark.parametrize(("source", "kind", "message"), BAD_SOURCES)
def test_bad_sources_raise_in_words(source, kind, message):
    with pytest.raises(kind, match=message):
        load_image(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": "no such colour"}, "unknown color"),
        ({"background": (1, 2)}, "three integers in 0..255"),
        ({"background": (0, 0, 256)}, "three integers in 0..255"),
        ({"input_data_format": "HWC"}, "'channels_first' or 'channels_last'; got 'HWC'"),
        ({"input_data_format": "channels_first"}, r"got shape \(5, 7, 3\) with input_data_format='channels_first'"),
    ],
)
def test_bad_options_raise_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        load_image(PIXELS, **options)


def test_flat_pictures_unpacks_lists_and_stacks_but_no_single_picture():
    image, stack = Image.fromarray(PIXELS), np.stack([PIXELS, PIXELS])
    assert len(flat_pictures(stack)) == 2 and len(flat_pictures(PIXELS)) == 1
    assert flat_pictures([[image], "a.png", [stack]])[:2] == [image, "a.png"]
    assert len(flat_pictures([[image], "a.png", [stack]])) == 4
    assert rgb_colour("#102030") == (16, 32, 48)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(MediaDecodeError, match="is a device, pipe or socket"):
        load_image(tmp_path / "pipe.png")


def test_links_are_followed_and_loops_of_them_are_not(tmp_path):
    (tmp_path / "picture.png").write_bytes(encoded(Image.fromarray(PIXELS)))
    (tmp_path / "link.png").symlink_to("picture.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "nowhere.png").symlink_to("missing.png")
    assert load_image(tmp_path / "link.png").size == (7, 5)
    with pytest.raises(MediaDecodeError, match="cannot open .*loop.png"):
        load_image(tmp_path / "loop.png")
    with pytest.raises(FileNotFoundError, match="no file at the path .*nowhere.png"):
        load_image(tmp_path / "nowhere.png")
