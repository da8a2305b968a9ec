"""The image processor on torchvision: the same shapes, masks and errors as Pillow's, and nearly the same pixels.

`make test-newest` runs the tests that need torchvision.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

import mm.processing.images.processor_fast
from mm import MediaDecodeError, MMImageProcessor, MMImageProcessorPil

RNG = np.random.default_rng(0)
SMOOTH = Image.fromarray(RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((150, 97), Image.Resampling.BICUBIC)
SIZE = {"height": 32, "width": 24}
CASES = {
    "squash": {},
    "crop": {"resize_mode": "crop"},
    "pad": {"resize_mode": "pad", "background": (9, 90, 200)},
    "native": {"resize_mode": "native", "patch_size": 8, "max_patches": 20},
    "enlarged": {"size": {"height": 301, "width": 200}},
    "shortest edge and crop": {
        "size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 41, "width": 55},
    },
    "content": {"do_crop_content": True, "content_margin": 0.1},
    "crop alone": {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 201, "width": 33}},
}  # fmt: skip


def pictures() -> list[Image.Image]:
    return [SMOOTH, SMOOTH.rotate(90, expand=True), SMOOTH.crop((3, 5, 70, 80))]


def test_without_torchvision_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(mm.processing.images.processor_fast, "is_torchvision_available", lambda: False)
    with pytest.raises(ImportError, match=r"needs torchvision, .*\.\[fast\].*MMImageProcessorPil"):
        MMImageProcessor()


@pytest.mark.newest
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_pixels_are_pillows_within_a_level_or_two(options):
    options = {"size": SIZE, "do_normalize": False, **options}
    slow = MMImageProcessorPil(**options)(pictures(), return_tensors="pt")
    fast = MMImageProcessor(**options)(pictures(), return_tensors="pt")
    assert set(slow) == set(fast) and slow["pixel_values"].dtype == fast["pixel_values"].dtype
    # both round to 8 bits once per axis, so each is within one level of the exact value on each
    torch.testing.assert_close(fast["pixel_values"], slow["pixel_values"], rtol=0, atol=2.01 / 255)
    if "pixel_attention_mask" in slow:
        assert torch.equal(fast["pixel_attention_mask"], slow["pixel_attention_mask"])


@pytest.mark.newest
def test_numbers_are_those_of_the_same_pixels():
    options = {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 20, "width": 20}}
    slow = MMImageProcessorPil(**options)(SMOOTH, return_tensors="pt")["pixel_values"]
    fast = MMImageProcessor(**options)(SMOOTH, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-6)


@pytest.mark.newest
def test_pixels_as_they_are_stay_bytes():
    options = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    slow = MMImageProcessorPil(**options)(SMOOTH, return_tensors="pt")["pixel_values"]
    fast = MMImageProcessor(**options)(SMOOTH, return_tensors="pt")["pixel_values"]
    assert slow.dtype == fast.dtype == torch.uint8 and torch.equal(fast, slow)
    assert torch.equal(fast[0], torch.from_numpy(np.array(SMOOTH)).permute(2, 0, 1))


@pytest.mark.newest
def test_a_saved_processor_is_loaded_as_either(tmp_path):
    MMImageProcessorPil(size=SIZE, resize_mode="pad").save_pretrained(tmp_path)
    fast = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(fast) is MMImageProcessor and fast.resize_mode == "pad" and fast.size["height"] == 32
    slow = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(slow) is MMImageProcessorPil and slow.to_dict() == fast.to_dict()


@pytest.mark.newest
def test_sources_and_bad_sources_are_read_alike():
    buffer = io.BytesIO()
    SMOOTH.save(buffer, "PNG")
    fast = MMImageProcessor(size=SIZE)
    expected = fast.preprocess([SMOOTH], return_tensors="pt")["pixel_values"]
    for source in (buffer, buffer.getvalue(), np.asarray(SMOOTH), np.asarray(SMOOTH) / 255):
        assert torch.equal(fast.preprocess([source], return_tensors="pt")["pixel_values"], expected)
    with pytest.raises(MediaDecodeError, match=r"images\[1\]: cannot decode the 6 bytes"):
        fast.preprocess([SMOOTH, b"broken"])
    held = fast.preprocess([b"broken", SMOOTH], on_error="placeholder", return_tensors="pt")["pixel_values"]
    assert not held[0].any() and torch.equal(held[1:], expected)
