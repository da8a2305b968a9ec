"""Columns of other people's samples: renamed if the caller says how, and never lost without a word."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

from mm.processing.collator import MMDataCollator
from mm.processing.images.processor import MMImageProcessorPil
from mm.processing.processor import MMProcessor

ID = {word: number for number, word in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] a cat dog".split())}
SEP = ID["[SEP]"]
RED = Image.new("RGB", (9, 7), "red")


@pytest.fixture
def processor():
    return MMProcessor(MMImageProcessorPil(size={"height": 8, "width": 8}), BertTokenizer(vocab=dict(ID)))


def as_bytes(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("columns", "sample"),
    [
        ({"caption": "suffix"}, {"image": RED, "caption": "cat"}),
        ({"jpg": "image", "txt": "suffix"}, {"__key__": "a", "__url__": "b", "jpg": RED, "txt": "cat"}),
        ({"picture": "image", "caption_0": "suffix"}, {"picture": RED, "caption_0": "cat", "caption_1": "dog"}),
        ({"image": None, "file": "image", "suffix": None, "t": "suffix"},
         {"image": 5, "file": as_bytes(RED), "suffix": None, "t": "cat"}),
    ],
)  # fmt: skip
def test_columns_of_other_names_are_read_as_they_are_told(processor, columns, sample):
    batch = MMDataCollator(processor, columns=columns)([sample, {**sample}])
    plain = MMDataCollator(processor)([{"image": RED, "suffix": "cat"}] * 2)
    assert list(batch) == list(plain) and all(torch.equal(batch[name], plain[name]) for name in plain)


def test_a_column_that_a_batch_lacks_is_no_fault(processor):
    collator = MMDataCollator(processor, columns={"jpg": "image", "caption": "suffix"})
    assert collator([{"caption": "cat"}])["labels"].tolist() == [[-100, ID["cat"], SEP]]
    with pytest.raises(ValueError, match=r"columns names \['caption', 'jpg'\], but the samples hold \['suffix'\]"):
        collator([{"suffix": "cat"}])


def test_a_caption_that_is_to_be_left_aside_is_named_so(processor):
    sample = {"image": RED, "text": "a", "answer": "cat"}
    batch = MMDataCollator(processor, columns={"answer": None})([sample])
    assert "labels" not in batch
    assert "labels" not in MMDataCollator(processor, mode="generate")([sample])  # prompts are all that is asked for
    assert "mlm_targets" in MMDataCollator(processor, mlm_probability=0.5)([sample])
    assert MMDataCollator(processor)([{**sample, "suffix": "dog"}])["labels"][0, -2] == ID["dog"]


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        (["caption"], TypeError, "columns is a dict"),
        ({"caption": "target"}, ValueError, "'caption' cannot be read as 'target'; accepted are image, images"),
        ({"a": "suffix", "b": "suffix"}, ValueError, "'a' and 'b' cannot both be 'suffix'"),
    ],
)
def test_columns_that_name_nothing_raise_in_words(processor, columns, kind, message):
    with pytest.raises(kind, match=message):
        MMDataCollator(processor, columns=columns)


def test_a_name_that_is_taken_raises_in_words(processor):
    with pytest.raises(ValueError, match="the samples hold 'suffix' too, so 'caption' cannot be read as it"):
        MMDataCollator(processor, columns={"caption": "suffix"})([{"image": RED, "caption": "a", "suffix": "b"}])


@pytest.mark.parametrize(("name", "meant"), [("imge", "image"), ("Images", "images"), ("vidoe", "video"),
                                             ("audoi", "audio"),
                                             ("sufix", "suffix"), ("labels", "label")])  # fmt: skip
def test_a_column_that_is_nearly_one_of_those_read_is_no_lost_picture(processor, name, meant):
    samples = [{name: np.zeros((8, 8, 3), np.uint8), "text": "a"}]
    with pytest.raises(ValueError, match=f"{name}.*mean '{meant}'"):
        MMDataCollator(processor)(samples)
    MMDataCollator(processor, columns={name: None})(samples)


def test_other_columns_are_left_aside(processor):
    beside = {
        name: 1
        for name in ("image_id", "ids", "split", "url", "file_name", "caption_id", "score", "text_id", "source")
    }
    batch = MMDataCollator(processor)([{"image": np.zeros((8, 8, 3), np.uint8), "suffix": "a", **beside}])
    assert {"pixel_values", "labels"} <= set(batch)
