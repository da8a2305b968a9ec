"""Resize modes: what is kept, what is added, how large the result is; and policies for bad pictures."""

import logging
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.image_utils import SizeDict
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

from mm import MediaDecodeError, MMConfig, MMImageProcessorPil, MMModel, MMProcessor
from mm.processing.images import geometry
from mm.processing.images.geometry import content_box, cut_to_content, fit, native_size, resized

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (60, 100, 3), dtype=np.uint8))
SIZE = {"height": 20, "width": 20}
SIDES = st.integers(1, 3000)


def pixels(image, **options):
    made = MMImageProcessorPil(**{"size": SIZE, "do_normalize": False, **options})(image, return_tensors="np")
    return np.rint(made["pixel_values"][0] * 255).astype(np.uint8).transpose(1, 2, 0)


def test_squash_is_pillows_resize():
    expected = np.asarray(PHOTO.resize((20, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(pixels(PHOTO), expected)


def test_crop_keeps_the_middle_of_the_aspect_asked_for():
    middle = PHOTO.crop((20, 0, 80, 60)).resize((20, 20), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels(PHOTO, resize_mode="crop"), np.asarray(middle))
    wide = PHOTO.crop((0, 15, 100, 45)).resize((40, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(
        pixels(PHOTO, resize_mode="crop", size={"height": 12, "width": 40}), np.asarray(wide)
    )


def test_shortest_edge_and_centre_crop_are_clips():
    options = {"size": {"shortest_edge": 30}, "do_center_crop": True, "crop_size": {"height": 30, "width": 30}}
    theirs = CLIPImageProcessorPil(**options)([PHOTO], return_tensors="pt").pixel_values
    mean_std = {"image_mean": CLIPImageProcessorPil.image_mean, "image_std": CLIPImageProcessorPil.image_std}
    ours = MMImageProcessorPil(**options, **mean_std)([PHOTO], return_tensors="pt").pixel_values
    torch.testing.assert_close(ours, theirs.float(), atol=2e-6, rtol=1e-6)


def test_pad_keeps_the_whole_picture_in_the_middle_of_the_background():
    seen = pixels(PHOTO, resize_mode="pad", background=(9, 90, 200))
    whole = PHOTO.resize((20, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(seen[4:16], np.asarray(whole))
    assert (seen[:4] == (9, 90, 200)).all() and (seen[16:] == (9, 90, 200)).all()


def test_native_masks_the_patches_of_each_picture():
    images = [PHOTO, PHOTO.rotate(90, expand=True), Image.new("RGB", (1, 500), "red")]
    options = {"resize_mode": "native", "patch_size": 8, "max_patches": 15}
    made = MMImageProcessorPil(**options)(images, return_tensors="pt")
    mask = made["pixel_attention_mask"]
    assert mask.dtype == torch.bool and made["pixel_values"].shape[-2:] == (8 * mask.shape[1], 8 * mask.shape[2])
    for image, row, alone in zip(images, mask, made["pixel_values"], strict=True):
        width, height = native_size(*image.size, 8, 15)
        assert row.sum() == row[: height // 8, : width // 8].sum() == height * width // 64 <= 15
        single = MMImageProcessorPil(**options)(image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(alone[:, :height, :width], single)
        assert not alone[:, height:].any() and not alone[:, :, width:].any()


@settings(deadline=None, derandomize=True, max_examples=200)
@given(SIDES, SIDES, st.integers(1, 32), st.integers(1, 1024))
def test_native_sizes_fill_the_budget_as_siglip_2_does(width, height, patch_size, max_patches):
    new_width, new_height = native_size(width, height, patch_size, max_patches)
    assert new_width % patch_size == new_height % patch_size == 0
    patches = new_width * new_height // patch_size**2
    assert 1 <= patches <= max_patches
    theirs = get_image_size_for_max_num_patches(height, width, patch_size, max_patches)
    fits = math.prod(theirs) <= max_patches * patch_size**2  # their search ends at a scale of 1e-6
    assert not fits or theirs == (new_height, new_width)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(SIDES, SIDES, st.integers(1, 600), st.integers(1, 600))
def test_crop_and_pad_give_the_size_asked_for_whatever_the_aspect(width, height, new_width, new_height):
    size = SizeDict(height=new_height, width=new_width)
    box, target, canvas = fit((width, height), "crop", size, 16, 256)
    assert target == (new_width, new_height) and canvas is None
    assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
    assert (box[0], box[2]) == (0, width) or (box[1], box[3]) == (0, height)
    box, target, canvas = fit((width, height), "pad", size, 16, 256)
    assert box == (0, 0, width, height) and canvas == (new_width, new_height)
    assert 1 <= target[0] <= new_width and 1 <= target[1] <= new_height
    assert target[0] == new_width or target[1] == new_height


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.data())
def test_resizing_a_box_by_strips_is_crop_and_resize_bit_for_bit(data):
    width, height = data.draw(st.integers(2, 2500)), data.draw(st.integers(2, 2500))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right = left + 1 if data.draw(st.booleans()) else data.draw(st.integers(left + 1, width))  # thin ones, too
    box = (left, top, right, data.draw(st.integers(top + 1, height)))
    size = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    resample = data.draw(st.sampled_from([Image.Resampling.BICUBIC, Image.Resampling.BILINEAR]))
    image = Image.frombytes("RGB", (width, height), np.random.default_rng(1).bytes(3 * width * height))
    expected = image.crop(box).resize(size, resample)
    exact = geometry.rows_are_first(right - left, box[3] - top, size) or not geometry.CHOOSES_ORDER
    for limit in (geometry.LARGEST_BETWEEN, 0) if exact else (geometry.LARGEST_BETWEEN,):  # 0: the channels one by one
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(geometry, "LARGEST_BETWEEN", limit)
            np.testing.assert_array_equal(np.asarray(resized(image, size, resample, box)), np.asarray(expected))


@pytest.mark.parametrize("content", [(0, 0, 1500, 1000), (300, 0, 700, 1300), (10, 20, 1210, 1190)])
def test_large_content_is_resized_as_the_whole_square_would_be(content):
    left, top, right, bottom = content
    noise = np.random.default_rng(0).integers(0, 200, (bottom - top, right - left, 3), dtype=np.uint8)
    image = Image.new("RGB", (1600, 1400), (250, 240, 230))
    image.paste(Image.fromarray(noise), (left, top))
    for margin in (0.0, 0.1):
        square = cut_to_content(image, (250, 240, 230), 8, margin)
        for resample in (Image.Resampling.BICUBIC, Image.Resampling.NEAREST):
            options = {"do_rescale": False, "do_normalize": False, "content_margin": margin, "resample": resample}
            processor = MMImageProcessorPil(do_crop_content=True, background=(250, 240, 230), **options)
            made = processor(image, size={"height": 60, "width": 90})["pixel_values"][0]
            expected = np.asarray(square.resize((90, 60), resample)).transpose(2, 0, 1)
            np.testing.assert_array_equal(made, expected)


def test_content_across_strips_is_found_whole():
    tall = Image.new("RGB", (2000, 3000), "white")  # several strips
    tall.paste("black", (900, 10, 1000, 2990))
    square = cut_to_content(tall, (255, 255, 255), threshold=8, margin=0.0)
    assert square.size == (2980, 2980)
    assert square.crop((1440, 0, 1540, 2980)).getextrema() == ((0, 0),) * 3


def test_bad_modes_raise_in_words():
    for options, message in (
        ({"resize_mode": "stretch"}, "resize_mode='stretch'; accepted are 'squash', 'crop', 'pad', 'native'"),
        ({"patch_size": 0}, "patch_size=0; accepted are whole numbers from 1"),
        ({"max_patches": 0}, "max_patches=0"),
        ({"channel_order": "grb"}, "channel_order='grb'; accepted are 'rgb', 'bgr'"),
        ({"input_range": 2}, "input_range=2; accepted are None, 1, 255"),
        ({"resize_mode": "native", "do_center_crop": True}, "the crop would cut through patches"),
    ):
        with pytest.raises(ValueError, match=message):
            MMImageProcessorPil(**options)
    for mode in ("crop", "pad"):
        with pytest.raises(ValueError, match=f"resize_mode='{mode}' needs size"):
            pixels(PHOTO, resize_mode=mode, size={"shortest_edge": 20})


def test_the_model_reads_native_pictures_as_though_each_were_alone(tiny_config):
    torch.manual_seed(0)
    config: MMConfig = tiny_config(vision_config={"image_size": 32})
    model = MMModel(config).double().eval()
    options = {"resize_mode": "native", "patch_size": config.vision_config.patch_size, "max_patches": 12}
    processor = MMProcessor(MMImageProcessorPil(**options))
    images = [PHOTO, PHOTO.rotate(90, expand=True)]
    together = processor(images, return_tensors="pt")
    assert together["pixel_attention_mask"].shape[0] == 2 and together["pixel_attention_mask"].ndim == 3
    apart = [processor(image, return_tensors="pt") for image in images]

    def vectors(inputs):
        seen = model.get_image_features(inputs["pixel_values"].double(), inputs["pixel_attention_mask"]).pooler_output
        assert seen is not None
        return seen

    both, singles = vectors(together), torch.cat([vectors(inputs) for inputs in apart])
    assert torch.all((both - singles).abs() <= 1e-12 * singles.abs().clamp(min=1))
    mixed = processor([[PHOTO, PHOTO], []], return_tensors="pt")
    assert mixed["pixel_attention_mask"].ndim == 4 and not mixed["pixel_attention_mask"][1].any()


@pytest.mark.parametrize(("on_error", "rows"), [("skip", [0, 2]), ("placeholder", [0, None, 2])])
def test_bad_pictures_are_skipped_or_held_counted_and_named(on_error, rows, caplog):
    sources = [PHOTO, b"broken", PHOTO.rotate(180)]
    processor = MMImageProcessorPil(size=SIZE)
    with caplog.at_level(logging.WARNING):
        made = processor.preprocess(sources, on_error=on_error, return_tensors="pt")["pixel_values"]
    assert "images[1]: cannot decode the 6 bytes" in caplog.text and "1 of 3 images cannot be read" in caplog.text
    assert len(made) == len(rows)
    for row, source in zip(made, rows, strict=True):
        if source is None:
            assert not row.any()
        else:
            assert torch.equal(row, processor(sources[source], return_tensors="pt")["pixel_values"][0])


def test_nothing_but_bad_pictures_raises_after_all():
    with pytest.raises(MediaDecodeError, match=r"none of the 2 images can be read; the first: images\[0\]: cannot"):
        MMImageProcessorPil().preprocess([b"broken", b"too"], on_error="skip")
    with pytest.raises(ValueError, match="on_error='ignore'; accepted are 'raise', 'skip', 'placeholder'"):
        MMImageProcessorPil().preprocess([PHOTO], on_error="ignore")


def test_the_budget_of_a_batch_holds_whatever_the_policy():
    processor = MMImageProcessorPil(size=SIZE)
    limit = 2 * PHOTO.width * PHOTO.height
    assert len(processor.preprocess([PHOTO, PHOTO], max_batch_pixels=limit)["pixel_values"]) == 2
    for on_error in ("raise", "skip", "placeholder"):
        with pytest.raises(MediaDecodeError, match=rf"images\[2\]: .*max_batch_pixels={limit} allows"):
            processor.preprocess([PHOTO] * 3, on_error=on_error, max_batch_pixels=limit)


def test_errors_say_where_what_and_why():
    truncated = b"\x89PNG\r\n\x1a\n" + bytes(40)
    with pytest.raises(MediaDecodeError) as caught:
        MMImageProcessorPil().preprocess([PHOTO, truncated])
    fault = caught.value
    assert fault.index == 1 and fault.name == f"the {len(truncated)} bytes given" and fault.cause
    assert str(fault) == f"images[1]: {fault.reason}" and fault.reason.startswith("cannot decode")
    with pytest.raises(FileNotFoundError) as missing:
        MMImageProcessorPil().preprocess(["no/such.png"])
    assert isinstance(missing.value, MediaDecodeError) and missing.value.index == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 3), (60, 47), (2, 300)], ids=str)
def test_the_box_of_the_content_is_that_of_a_look_at_every_pixel(size):
    chance, white = random.Random(size[0]), (255, 255, 255)
    for _ in range(60):
        image = Image.new("RGB", size, white)
        for _ in range(chance.choice([0, 1, 1, 2, 5])):
            level = chance.choice([253, 248, 0])
            image.putpixel((chance.randrange(size[0]), chance.randrange(size[1])), (255, level, 255))
        differ = np.argwhere((255 - np.asarray(image).astype(int)).max(2) > 4)
        box = (0, 0, *size)
        if len(differ):
            (top, left), (bottom, right) = differ.min(0), differ.max(0) + 1
            box = (left, top, right, bottom)
        assert content_box(image, white, 4) == box
