"""Augmentation of pictures: chance of its own, sizes that processors take, and no picture that belies its text."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, AutoTokenizer

from mm import MMDataCollator, MMImageProcessorPil, MMProcessor
from mm.processing.images.augment import OPERATIONS, PictureAugmentation, names_a_side
from mm.processing.sample_seeds import sample_rng

ROOT = Path(__file__).resolve().parents[3]
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
NOTHING = {"crop": None, "flip": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
ALL = {"rotation": 20, "operations": 3, "magnitude": 0.5}


def seen(seed=0, texts=(), image=PHOTO, **changes) -> np.ndarray:
    return np.asarray(PictureAugmentation(**changes)(image, np.random.default_rng(seed), texts))


def test_a_view_depends_on_the_generator_alone():
    for seed in range(5):
        np.testing.assert_array_equal(seen(seed, **ALL), seen(seed, **ALL))
    assert len({seen(seed, **ALL).tobytes() for seed in range(8)}) == 8


def test_with_everything_off_it_is_the_picture():
    np.testing.assert_array_equal(seen(**NOTHING), np.asarray(PHOTO))


def test_a_text_that_names_a_side_keeps_its_picture_unmirrored():
    mirrored = np.asarray(ImageOps.mirror(PHOTO))
    always = {**NOTHING, "flip": 1.0}
    np.testing.assert_array_equal(seen(texts=["a cat on a mat"], **always), mirrored)
    for text in ("a LEFT arrow", "cat to the right of a dog", "left-hand glove", "a stop sign", "turns clockwise"):
        np.testing.assert_array_equal(seen(texts=["a cat", text], **always), np.asarray(PHOTO))
        np.testing.assert_array_equal(seen(texts=[text], **always, text_aware=False), mirrored)
    assert not names_a_side(["bright leftovers", "copyrighted", "an aright song"])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**32), st.floats(0, 1), st.integers(0, 180))
def test_every_view_is_rgb_and_no_larger_than_the_picture(width, height, seed, magnitude, rotation):
    image = Image.new("RGB", (width, height), "red")
    augmentation = PictureAugmentation(crop=(0.1, 1.0), rotation=rotation, operations=4, magnitude=magnitude)
    view = augmentation(image, np.random.default_rng(seed))
    assert view.mode == "RGB" and 1 <= view.width <= width and 1 <= view.height <= height


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_keep_the_size_and_do_nothing_to_the_picture_itself(operation):
    before = PHOTO.tobytes()
    for strength in (-1.0, 0.4, 1.0):
        changed = operation(PHOTO, strength, (255, 255, 255))
        assert changed.size == PHOTO.size and changed.mode == "RGB"
    assert PHOTO.tobytes() == before


def test_the_crop_keeps_the_share_of_the_area_that_was_asked_for():
    for seed in range(20):
        height, width, _ = seen(seed, **{**NOTHING, "crop": (0.25, 0.5)}).shape
        assert 0.2 < height * width / (40 * 60) < 0.56


def places(width: int, height: int) -> Image.Image:
    """A picture whose red says the column and whose green says the row."""
    down, across = np.mgrid[0:height, 0:width]
    pixels = np.stack([across * 255 / width, down * 255 / height, 0 * down], -1)
    return Image.fromarray(pixels.round().astype(np.uint8))


def jpeg(picture: Image.Image, turn: int = 1) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    picture.save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("mode", ["squash", "crop", "pad", "content"])
def test_a_view_of_a_large_file_is_that_of_its_whole_picture(monkeypatch, mode, turn):
    """The box is drawn of the file's own size, whatever it is decoded at: the same numbers give the same part, turn
    and mirror as when the whole picture is decoded first."""
    geometry = {"crop": (0.3, 1.0), "rotation": 15, **{name: 0.0 for name in ("brightness", "contrast", "saturation")}}
    size = {"height": 32, "width": 24}
    content = {"do_crop_content": True, "background": "black"} if mode == "content" else {"resize_mode": mode}
    reader = MMImageProcessorPil(size=size, augmentation=geometry, **content)
    processor = MMProcessor(reader, AutoTokenizer.from_pretrained(ROOT / "checkpoints/mm-tiny"))
    raw = jpeg(places(800, 600), turn)
    collator, decoded = MMDataCollator(processor, augment="saved", seed=3), []
    own = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: decoded.append(self.size) or own(self, *a, **k))
    batch = collator([{"id": number, "image": raw, "suffix": "a place"} for number in range(12)])["pixel_values"]
    assert max(max(seen) for seen in decoded) <= (400 if mode != "content" else 800)  # at a half or less
    whole = reader.load(raw)
    assert whole.size == ((600, 800) if turn == 6 else (800, 600))
    for number, pixels in enumerate(batch):
        view = PictureAugmentation(**geometry)(whole, sample_rng(3, 0, number), ["a place"])
        expected = reader.pixels_of([view], return_tensors="pt")["pixel_values"][0]
        apart = (pixels - expected).abs()
        assert apart.mean() < (0.05 if mode == "content" else 0.02)  # the edges of the content may move by a pixel


def test_a_small_object_in_a_large_picture_keeps_its_pixels():
    """What is cut to its content is shrunk by the size of the content, not by that of the picture."""
    picture = Image.new("RGB", (900, 900), "white")
    picture.paste(PHOTO, (400, 300))
    reader = MMImageProcessorPil(size={"height": 32, "width": 32}, do_crop_content=True, augmentation=NOTHING)
    processor = MMProcessor(reader, AutoTokenizer.from_pretrained(ROOT / "checkpoints/mm-tiny"))
    made = MMDataCollator(processor, augment="saved")([{"image": picture, "suffix": "noise"}])["pixel_values"]
    assert torch.equal(made, reader(picture, return_tensors="pt")["pixel_values"])


def test_a_view_of_a_small_picture_is_not_resampled():
    reader = MMImageProcessorPil(size={"height": 32, "width": 32}, augmentation={"rotation": 15, "operations": 2})
    processor = MMProcessor(reader, AutoTokenizer.from_pretrained(ROOT / "checkpoints/mm-tiny"))
    collator = MMDataCollator(processor, augment="saved")
    for number in range(6):
        made = collator([{"id": number, "image": PHOTO, "suffix": "noise"}])["pixel_values"]
        view = PictureAugmentation(rotation=15, operations=2)(PHOTO, sample_rng(0, 0, number), ["noise"])
        assert torch.equal(made, reader.pixels_of([view], return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (0, 1)}, "shares 0 < low <= high <= 1"),
        ({"crop": (0.9, 0.5)}, "shares 0 < low"),
        ({"crop": "ab"}, "crop='ab'; accepted are shares"),
        ({"crop": 0.5}, "crop=0.5; accepted are shares"),
        ({"flip": 1.5}, r"flip=1\.5; accepted are shares from 0 to 1"),
        ({"flip": "a"}, "flip='a'; accepted are shares from 0 to 1"),
        ({"brightness": None}, "brightness=None; accepted are shares"),
        ({"rotation": 200}, "rotation=200; accepted are numbers from 0 to 180"),
        ({"operations": -1}, "whole numbers from 0"),
        ({"operations": "2"}, "whole numbers from 0"),
        ({"text_aware": "no"}, "text_aware='no'; accepted are True or False"),
        ({"background": "no such"}, "unknown color"),
        ({"background": 3}, "a colour is a name such as 'white' or three integers in 0..255; got 3"),
    ],
)
def test_bad_settings_raise_in_words_wherever_they_are_given(options, message):
    with pytest.raises(ValueError, match=message):
        PictureAugmentation(**options)
    with pytest.raises(ValueError, match=message):
        MMImageProcessorPil(augmentation=options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'mirror'"):
        MMImageProcessorPil(augmentation={"mirror": 1})


SAVED = PictureAugmentation(**ALL).to_dict()


def test_it_is_saved_with_the_processor_and_off_outside_of_training(tmp_path):
    plain = MMImageProcessorPil(size={"height": 16, "width": 16})
    processor = MMImageProcessorPil(size={"height": 16, "width": 16}, augmentation=SAVED)
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert loaded.augmentation == SAVED and PictureAugmentation(**loaded.augmentation) == PictureAugmentation(**ALL)
    expected = plain(PHOTO, return_tensors="pt")["pixel_values"]
    assert torch.equal(loaded(PHOTO, return_tensors="pt")["pixel_values"], expected)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ROOT / "checkpoints" / "mm-tiny")


def collator(tokenizer, mode="train", epoch=0, **options) -> MMDataCollator:
    images = MMImageProcessorPil(size={"height": 16, "width": 16}, augmentation=SAVED, **options)
    made = MMDataCollator(MMProcessor(images, tokenizer), augment="saved", mode=mode, seed=3)
    made.set_epoch(epoch)
    return made


SAMPLES = [{"id": f"sample {number}", "image": PHOTO, "text": f"view {number}"} for number in range(6)]
APART = [sample | {"image": PHOTO.copy()} for sample in SAMPLES]  # equal pictures, not one that is shared


def test_the_collator_applies_what_is_saved_by_seed_epoch_and_sample(tokenizer):
    batch = collator(tokenizer)(APART)["pixel_values"]
    assert len({row.numpy().tobytes() for row in batch}) == 6
    assert torch.equal(collator(tokenizer)(APART[::-1])["pixel_values"].flip(0), batch)
    assert not torch.equal(collator(tokenizer, epoch=1)(APART)["pixel_values"], batch)
    alone = torch.cat([collator(tokenizer)([sample])["pixel_values"] for sample in APART])
    assert torch.equal(alone, batch)
    quiet = collator(tokenizer, mode="generate")(APART)["pixel_values"]
    assert torch.equal(quiet, quiet[:1].expand_as(quiet))


def test_the_views_do_not_depend_on_the_number_of_workers(tokenizer):
    def views(workers):
        loader = DataLoader(APART, batch_size=2, num_workers=workers, collate_fn=collator(tokenizer))  # pyright: ignore[reportArgumentType]: a list is a data set
        return torch.cat([batch["pixel_values"] for batch in loader])

    assert torch.equal(views(0), views(2))


def test_a_shared_picture_is_not_mirrored_if_any_of_its_texts_names_a_side(tokenizer):
    always = {**NOTHING, "flip": 1.0}
    images = MMImageProcessorPil(size={"height": 40, "width": 60}, augmentation=always)
    made = MMDataCollator(MMProcessor(images, tokenizer), augment="saved")
    plain = images(PHOTO, return_tensors="pt")["pixel_values"]
    for suffix, expected in (("a dog", plain.flip(-1)), ("a left arrow", plain)):
        samples = [{"image": PHOTO, "text": "this is", "suffix": words} for words in ("a cat", suffix)]
        assert torch.equal(made(samples)["pixel_values"], expected)


def test_saved_without_settings_says_so(tokenizer):
    with pytest.raises(ValueError, match="no image_processor.augmentation"):
        MMDataCollator(MMProcessor(MMImageProcessorPil(), tokenizer), augment="saved")
