"""Whatever the picture: every kind of source gives the same pixels, and a batch what its pictures give alone."""

import base64
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mm import MMImageProcessorPil
from mm.processing.images.load import load_image

SIDES = st.integers(1, 40)
MODES = st.sampled_from(["L", "RGB", "RGBA"])
LOSSLESS = st.sampled_from(["PNG", "TIFF", "WEBP", "BMP"])
OPTIONS = st.fixed_dictionaries(
    {
        "resize_mode": st.sampled_from(["squash", "crop", "pad"]),
        "do_crop_content": st.booleans(),
        "background": st.tuples(*[st.integers(0, 255)] * 3),
        "size": st.fixed_dictionaries({"height": st.integers(1, 30), "width": st.integers(1, 30)}),
    }
)


@st.composite
def arrays(draw) -> np.ndarray:
    """uint8 (H, W[, C]): noise, or one colour with a patch of another."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[draw(MODES)]
    shape = (draw(SIDES), draw(SIDES), *channels)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        return rng.integers(0, 256, shape, dtype=np.uint8)
    array = np.full(shape, draw(st.sampled_from([0, 128, 255])), dtype=np.uint8)
    array[: draw(SIDES) // 2, : draw(SIDES) // 2] = rng.integers(0, 256, channels or 1)
    return array


def encoded(image: Image.Image, fmt: str) -> bytes:
    buffer = io.BytesIO()
    options = {"WEBP": {"lossless": True, "exact": True}}.get(fmt, {})
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def sources(array: np.ndarray, fmt: str, folder: Path) -> list:
    """The same picture in every way that it may be handed over, arrays of three dimensions with the last one last."""
    image = Image.fromarray(array)
    fmt = "PNG" if fmt == "BMP" and image.mode == "RGBA" else fmt  # a BMP's alpha is not always read as one
    raw = encoded(image, fmt)
    path = folder / "picture"
    path.write_bytes(raw)
    return [
        str(path), path, raw, bytearray(raw), io.BytesIO(raw), Image.open(io.BytesIO(raw)), image,
        f"data:image/x;base64,{base64.b64encode(raw).decode()}",
        array, array / 255, (array / 255).astype(np.float32), array.astype(np.uint16) * 257,
        np.asfortranarray(array), torch.from_numpy(array), torch.from_numpy(array) / 255,
        (torch.from_numpy(array).double() / 255).requires_grad_(),
    ]  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=60)
@given(arrays(), LOSSLESS, st.tuples(*[st.integers(0, 255)] * 3))
def test_every_kind_of_source_gives_the_same_pixels(array, fmt, background):
    image = Image.fromarray(array)
    expected = np.asarray(load_image(image, background=background))
    with tempfile.TemporaryDirectory() as folder:
        for source in sources(array, fmt, Path(folder)):
            seen = np.asarray(load_image(source, background=background, input_data_format="channels_last"))
            np.testing.assert_array_equal(seen, expected, err_msg=str(type(source)))
    if array.ndim == 3:
        first = np.moveaxis(array, -1, 0)
        for source in (first, torch.from_numpy(array).permute(2, 0, 1), torch.from_numpy(first.copy())):
            seen = np.asarray(load_image(source, background=background, input_data_format="channels_first"))
            np.testing.assert_array_equal(seen, expected)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(arrays())
def test_half_precision_gives_the_pixels_of_its_own_numbers(array):
    half = (torch.from_numpy(array) / 255).bfloat16()
    seen = np.asarray(load_image(half, input_data_format="channels_last"))
    again = np.asarray(load_image(half.float(), input_data_format="channels_last"))
    np.testing.assert_array_equal(seen, again)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(arrays(), min_size=1, max_size=4), OPTIONS)
def test_a_batch_is_its_pictures_alone(batch, options):
    processor = MMImageProcessorPil(**options)
    images = [Image.fromarray(array) for array in batch]
    together = processor(images, return_tensors="np")["pixel_values"]
    apart = [processor(image, return_tensors="np")["pixel_values"][0] for image in images]
    np.testing.assert_array_equal(together, np.stack(apart))
    turned = processor(images[::-1], return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(turned[::-1], together)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(arrays())
def test_opaque_pictures_know_no_background_and_transparent_ones_nothing_else(array):
    image = Image.fromarray(array)
    opaque, clear = image.convert("RGB").convert("RGBA"), image.convert("RGBA")
    clear.putalpha(0)
    for background in ((255, 255, 255), (3, 200, 77)):
        np.testing.assert_array_equal(np.asarray(load_image(opaque, background=background)), image.convert("RGB"))
        assert (np.asarray(load_image(clear, background=background)) == background).all()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(arrays(), st.integers(1, 8))
def test_turning_by_exif_is_turning_the_pixels(array, orientation):
    image = Image.fromarray(array).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = io.BytesIO()
    image.save(raw, "PNG", exif=exif)
    seen, pixels = np.asarray(load_image(raw)), np.asarray(image)
    flipped = pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    np.testing.assert_array_equal(seen, np.rot90(flipped, turns))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(arrays())
def test_swapping_channels_back_is_the_picture(array):
    image = Image.fromarray(array)
    if array.ndim == 3:
        array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    seen = load_image(array, channel_order="bgr", input_data_format="channels_last")
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(load_image(image)))
