"""From pictures to pixel_values: geometry, numbers, options and their round trip."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessorPil
from transformers.processing_utils import ImagesKwargs

import mm
from mm.processing.images.load import MediaDecodeError
from mm.processing.images.processor import MMImageProcessorKwargs, MMImageProcessorPil, cut_to_content

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(RNG.integers(0, 256, (30, 50, 3), dtype=np.uint8))
SMALL = {"height": 16, "width": 16}


def pixel_values(images, **options):
    return MMImageProcessorPil(**({"size": SMALL} | options))(images, return_tensors="pt").pixel_values


def with_dot(box, background: Any = "white", size=(40, 60)):
    image = Image.new("RGB", size, background)
    image.paste((10, 200, 30), box)
    return image


def test_pixel_values_are_floats_of_the_set_size_in_minus_one_to_one():
    values = MMImageProcessorPil()([PHOTO, Image.new("L", (7, 9), 255)], return_tensors="pt").pixel_values
    assert values.shape == (2, 3, 224, 224) and values.dtype == torch.float32 and values.is_contiguous()
    assert -1 <= values.min() < -0.5 and 0.5 < values.max() <= 1
    torch.testing.assert_close(values[1], torch.ones(3, 224, 224))


def test_numbers_are_those_of_the_transformers_pil_backend():
    images = [PHOTO, Image.new("RGB", (9, 5), (20, 70, 220))]
    cases: list[dict[str, Any]] = [
        {"resample": Image.Resampling.BICUBIC},
        {"resample": Image.Resampling.BILINEAR, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": SMALL},
        {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 40, "width": 20}},
    ]
    for options in cases:
        options = {"size": SMALL, "resample": Image.Resampling.BICUBIC} | options
        theirs = ViTImageProcessorPil(**options)(images, return_tensors="pt").pixel_values
        mine = pixel_values(images, **options)
        assert (mine.dtype == torch.uint8) == (theirs.dtype == torch.uint8) == ("do_rescale" in options)
        torch.testing.assert_close(mine.float(), theirs.float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"do_crop_content": True, "content_margin": 0.1}], ids=["plain", "content"])
def test_the_same_picture_from_any_source_gives_the_same_pixels(tmp_path, options):
    image = with_dot((5, 7, 20, 30))
    path = tmp_path / "picture.png"
    image.save(path)
    array = np.asarray(image)
    expected = pixel_values(image, **options)
    sources = [str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), Image.open(path)]
    sources += [array, array.transpose(2, 0, 1), array / 255, torch.from_numpy(array.copy()).permute(2, 0, 1)]
    for source in sources:
        assert torch.equal(pixel_values(source, **options), expected), type(source)
    assert torch.equal(pixel_values(sources, **options), expected.expand(len(sources), -1, -1, -1))


def test_lists_stacks_and_nested_lists_make_one_batch():
    stack = np.stack([np.asarray(PHOTO)] * 3)
    one = pixel_values(PHOTO)
    for images in (stack, torch.from_numpy(stack), [PHOTO] * 3, [[PHOTO], [PHOTO, PHOTO]]):
        assert torch.equal(pixel_values(images), one.expand(3, -1, -1, -1))


def test_options_of_a_call_override_those_of_the_processor():
    processor = MMImageProcessorPil(size=SMALL)
    values = processor(PHOTO, size={"height": 8, "width": 12}, do_normalize=False, return_tensors="np").pixel_values
    assert values.shape == (1, 3, 8, 12) and values.min() >= 0 and isinstance(values, np.ndarray)
    assert processor.size["height"] == 16


def test_content_is_cut_out_and_centred_on_a_square_of_the_background():
    square = cut_to_content(with_dot((10, 5, 14, 13)), (255, 255, 255), threshold=8, margin=0.0)
    assert square.size == (8, 8)
    assert np.asarray(square)[:, 2:6].tolist() == [[[10, 200, 30]] * 4] * 8
    assert (np.asarray(square)[:, [0, 1, 6, 7]] == 255).all()


def test_where_the_content_stands_does_not_matter_once_it_is_cut_out():
    places = [(0, 0), (11, 3), (30, 50), (5, 40)]
    images = [with_dot((x, y, x + 9, y + 7)) for x, y in places]
    values = pixel_values(images, do_crop_content=True)
    assert torch.equal(values, values[:1].expand_as(values))
    assert not torch.equal(pixel_values(images[0]), pixel_values(images[1]))


def test_noise_below_the_threshold_is_background_and_a_picture_of_nothing_is_kept():
    noisy = np.asarray(with_dot((10, 10, 20, 20))).copy()
    noisy[0, 0] = (250, 255, 255)
    white = (255, 255, 255)
    assert cut_to_content(Image.fromarray(noisy), white, threshold=8, margin=0.0).size == (10, 10)
    assert cut_to_content(Image.fromarray(noisy), white, threshold=4, margin=0.0).size == (20, 20)
    assert cut_to_content(Image.new("RGB", (4, 6), "white"), white, threshold=8, margin=0.0).size == (6, 6)


def test_the_margin_is_a_share_of_the_square_on_each_side():
    assert cut_to_content(with_dot((10, 10, 20, 30)), (255, 255, 255), threshold=8, margin=0.25).size == (30, 30)


def test_content_on_a_coloured_or_transparent_background():
    on_blue = with_dot((3, 4, 9, 10), background=(0, 0, 255))
    options: dict[str, Any] = {"do_crop_content": True, "do_normalize": False, "background": (0, 0, 255)}
    values = pixel_values(on_blue, **options)
    clear = Image.new("RGBA", (40, 60), (0, 0, 0, 0))
    clear.paste((10, 200, 30, 255), (20, 20, 26, 26))
    assert torch.equal(pixel_values(clear, **options), values)
    assert values.std(dim=(2, 3)).max() == 0  # the dot fills the square


def test_a_thin_strip_is_cut_out_without_a_square_of_its_length():
    strip = Image.new("RGB", (200_000, 2), "black")
    assert cut_to_content(strip, (255, 255, 255), threshold=8, margin=0.0).size == (4096, 4096)
    assert pixel_values(strip, do_crop_content=True).shape == (1, 3, 16, 16)


def test_extreme_aspects_keep_at_least_one_pixel():
    strip = Image.new("RGB", (500, 1), "red")
    assert pixel_values(strip).shape == (1, 3, 16, 16)
    assert pixel_values(strip, size={"max_height": 20, "max_width": 20}).shape == (1, 3, 1, 20)


def test_draft_is_near_to_the_full_decode():
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((512, 512)).convert("RGB").save(buffer, "JPEG", quality=95)
    full, draft = (pixel_values(buffer, do_draft=flag) for flag in (False, True))
    assert not torch.equal(full, draft) and (full - draft).abs().max() < 0.06
    assert torch.equal(
        pixel_values(buffer, do_draft=True, do_crop_content=True), pixel_values(buffer, do_crop_content=True)
    )


def test_save_and_load_keep_every_option(tmp_path):
    processor = MMImageProcessorPil(
        size={"height": 12, "width": 10}, image_mean=[0.1, 0.2, 0.3], do_crop_content=True, background=[1, 2, 3]
    )
    processor.save_pretrained(tmp_path)
    assert processor.to_dict()["image_processor_type"] == "MMImageProcessor"
    assert mm.MMImageProcessorPil is MMImageProcessorPil  # importing mm registers it
    for loaded in (
        MMImageProcessorPil.from_pretrained(tmp_path),
        AutoImageProcessor.from_pretrained(tmp_path, backend="pil"),
    ):
        assert type(loaded) is MMImageProcessorPil and loaded.to_dict() == processor.to_dict()
        assert torch.equal(
            loaded(PHOTO, return_tensors="pt").pixel_values, processor(PHOTO, return_tensors="pt").pixel_values
        )


def test_the_options_extend_those_of_transformers():
    assert set(ImagesKwargs.__annotations__) < set(MMImageProcessorKwargs.__annotations__)
    assert MMImageProcessorPil.valid_kwargs is MMImageProcessorKwargs and MMImageProcessorPil.model_input_names == [
        "pixel_values"
    ]


BAD_OPTIONS = [
    ({"content_treshold": 3}, TypeError, r"unknown image option \['content_treshold'\]; known are"),
    ({"size": "large"}, TypeError, "'size' with value 'large'"),
    ({"do_resize": "yes"}, TypeError, "'do_resize' with value 'yes'"),
    ({"do_crop_content": None}, TypeError, "'do_crop_content' expected bool"),
    ({"content_threshold": 255}, ValueError, r"content_threshold=255; accepted are 0\.\.254"),
    ({"content_margin": -0.5}, ValueError, r"content_margin=-0\.5; accepted are 0\.\.1"),
    ({"background": "whitish"}, ValueError, "unknown color"),
    ({"image_mean": [0.5, 0.5]}, ValueError, "image_mean=.*one number or three"),
    ({"image_std": [0.5, 0.5, 0.0]}, ValueError, "image_std=.*numbers above 0"),
    ({"do_pad": True}, ValueError, "all pictures get one size"),
    ({"data_format": "channels_last"}, ValueError, "always channels first"),
]


@pytest.mark.parametrize(("options", "kind", "message"), BAD_OPTIONS)
def test_bad_options_raise_in_words_when_made_and_when_called(options, kind, message):
    with pytest.raises(kind, match=message):
        MMImageProcessorPil(**options)
    with pytest.raises(kind, match=message):
        MMImageProcessorPil()(PHOTO, **options)


BAD_CALLS = [
    ([], {}, ValueError, "no images"),
    ([[]], {}, ValueError, "no images"),
    ([PHOTO, None], {}, TypeError, "got NoneType"),
    (b"broken", {}, MediaDecodeError, "cannot decode the 6 bytes"),
    (np.zeros((9, 9, 3)), {"do_rescale": False}, ValueError, "do_rescale=False would leave them there"),
    ([PHOTO, PHOTO.rotate(90, expand=True)], {"do_resize": False}, ValueError, "different .width, height."),
    (PHOTO, {"size": {"longest_edge": 5}}, ValueError, "size has height and width, shortest_edge"),
    (Image.new("RGB", (9000, 1)), {"size": {"shortest_edge": 224}}, MediaDecodeError, "would become"),
    (PHOTO, {"return_tensors": "tf"}, ValueError, "tf"),
]


@pytest.mark.parametrize(("images", "options", "kind", "message"), BAD_CALLS)
def test_bad_calls_raise_in_words(images, options, kind, message):
    with pytest.raises(kind, match=message):
        MMImageProcessorPil()(images, **({"return_tensors": "pt"} | options))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_without_conversion_rgb_pictures_are_read_and_no_others():
    processor = MMImageProcessorPil(do_convert_rgb=False)
    for source in (PHOTO, np.asarray(PHOTO), png(PHOTO)):
        assert np.array_equal(processor(source)["pixel_values"], MMImageProcessorPil()(source)["pixel_values"])
    grey = PHOTO.convert("L")
    for source in (grey, np.asarray(grey), png(grey)):
        with pytest.raises(MediaDecodeError, match="its mode is L, .*do_convert_rgb=False"):
            processor(source)
