"""MMDataCollator: raw samples and ready ones to batches, sharing, augmentation, and bad samples."""

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

from mm.processing.collator import MMDataCollator, sample_rng
from mm.processing.images.load import MediaDecodeError
from mm.processing.images.processor import MMImageProcessorPil
from mm.processing.processor import MMProcessor

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of cat dog red".split()
PAD, UNK, CLS, SEP = range(4)
ID = {word: number for number, word in enumerate(WORDS)}
RED, BLUE = (Image.new("RGB", (9, 7), colour) for colour in ("red", "blue"))


@pytest.fixture
def processor():
    return MMProcessor(MMImageProcessorPil(size={"height": 8, "width": 8}), BertTokenizer(vocab=dict(ID)))


def pixels_of(processor, image):
    return processor.image_processor(image, return_tensors="pt").pixel_values[0]


def as_bytes(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def ready(processor, **sample):
    """A sample that went through the processor, without batch dim."""
    return {name: value[0] for name, value in processor(return_tensors="pt", **sample).items()}


def test_samples_become_the_processors_batch_with_input_ids_first(processor):
    samples = [{"image": RED, "text": "a", "suffix": "cat"}, {"image": BLUE, "text": "a photo", "suffix": "of dog"}]
    batch = MMDataCollator(processor)(samples)
    expected = processor([RED, BLUE], ["a", "a photo"], suffix=["cat", "of dog"], return_tensors="pt")
    assert list(batch)[0] == "input_ids" and set(batch) == set(expected) and type(batch) is dict
    for name, value in expected.items():
        assert torch.equal(batch[name], value) and batch[name].dtype == value.dtype


def test_captions_need_no_text_column_and_other_columns_are_left_aside(processor):
    batch = MMDataCollator(processor)(
        [{"image": RED, "suffix": "cat", "source": "a.png"}, {"image": BLUE, "suffix": "a"}]
    )
    assert batch["labels"].tolist() == [[-100, ID["cat"], SEP], [-100, ID["a"], SEP]]


def test_text_options_reach_the_rows(processor):
    samples = [{"text": "a photo of cat"}, {"text": "a"}]
    collator = MMDataCollator(processor, max_length=3, pad_to_multiple_of=4, blank_media=False)
    assert collator(samples)["input_ids"].tolist() == [[CLS, ID["a"], ID["photo"], PAD], [CLS, ID["a"], PAD, PAD]]
    left = MMDataCollator(processor, padding_side="left", blank_media=False)(samples)
    assert left["input_ids"][1].tolist() == [PAD, PAD, PAD, CLS, ID["a"]]


def test_generate_mode_gives_left_padded_prompts_without_labels(processor):
    samples = [{"image": RED, "text": "a", "suffix": "cat"}, {"image": RED, "text": "a photo", "suffix": "of dog"}]
    batch = MMDataCollator(processor, mode="generate")(samples)
    assert batch["input_ids"].tolist() == [[PAD, CLS, ID["a"]], [CLS, ID["a"], ID["photo"]]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]] and "labels" not in batch
    processor.add_eos_token = True
    assert torch.equal(MMDataCollator(processor, mode="generate")(samples)["input_ids"], batch["input_ids"])


# -------------------------------------------------------------------------------------------------------- sharing


@pytest.mark.parametrize("kind", ["object", "path", "bytes", "mixed spellings of a path"])
def test_samples_with_the_same_picture_share_a_context(processor, tmp_path, kind):
    paths = [tmp_path / "red.png", tmp_path / "blue.png"]
    for path, image in zip(paths, (RED, BLUE), strict=True):
        image.save(path)
    red, blue = {"object": (RED, BLUE), "bytes": (as_bytes(RED), as_bytes(BLUE))}.get(kind, paths)
    again = {"bytes": bytes(bytearray(as_bytes(RED))), "mixed spellings of a path": str(paths[0])}.get(kind, red)
    samples = [{"image": red, "text": "a"}, {"image": blue, "text": "cat"}, {"image": again, "text": "dog"}]
    batch = MMDataCollator(processor)(samples)
    assert batch["pixel_values"].shape[0] == 2 and batch["context_index"].tolist() == [0, 1, 0]
    assert batch["input_ids"][:, 1].tolist() == [ID["a"], ID["cat"], ID["dog"]]  # rows keep the order of the samples
    alone = MMDataCollator(processor, share_media=False)(samples)
    assert "context_index" not in alone
    assert torch.equal(alone["pixel_values"], batch["pixel_values"][batch["context_index"]])


def test_samples_without_pictures_get_an_empty_context(processor):
    samples = [{"image": RED, "text": "a"}, {"image": None, "text": "cat"}, {"text": "dog"}]
    batch = MMDataCollator(processor)(samples)
    assert batch["pixel_attention_mask"].tolist() == [[True], [False]] and batch["context_index"].tolist() == [0, 1, 1]


def test_several_pictures_and_several_texts_in_a_sample(processor):
    samples = [
        {"images": [RED, BLUE], "text": ["a", "cat"], "suffix": ["dog", "a"]},
        {"image": RED, "text": "a", "suffix": "a"},
    ]
    batch = MMDataCollator(processor)(samples)
    assert batch["pixel_attention_mask"].tolist() == [[True, True], [True, False]]
    assert batch["context_index"].tolist() == [0, 0, 1] and batch["labels"].shape[0] == 3


@pytest.mark.parametrize("rows", [1, 3])
def test_a_batch_without_pictures_gets_one_masked_blank(processor, rows):
    samples = [{"text": "a"}] * rows
    batch = MMDataCollator(processor)(samples)
    assert batch["pixel_values"].shape == (1, 1, 3, 8, 8) and not batch["pixel_values"].any()
    assert batch["pixel_attention_mask"].tolist() == [[False]]
    assert batch.get("context_index", torch.zeros(1)).tolist() == [0] * rows
    assert list(MMDataCollator(processor, blank_media=False)(samples)) == ["input_ids", "attention_mask"]
    no_pictures = MMProcessor(tokenizer=processor.tokenizer)
    assert list(MMDataCollator(no_pictures)(samples)) == ["input_ids", "attention_mask"]


# --------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("labels", "dtype", "shape"),
    [
        ([1, 0], torch.int64, (2,)),
        ([np.int32(1), torch.tensor(0)], torch.int64, (2,)),
        ([0.5, 1.5], torch.float32, (2,)),
        ([[0, 1, 1], [1, 0, 0]], torch.float32, (2, 3)),
    ],
)
def test_labels_take_the_type_of_their_task(processor, labels, dtype, shape):
    samples = [{"image": image, "text": "a", "label": label} for image, label in zip((RED, BLUE), labels, strict=True)]
    for keep in (("image", "label"), ("text", "label"), ("image", "text", "label")):
        batch = MMDataCollator(processor)([{name: sample[name] for name in keep} for sample in samples])
        assert batch["labels"].dtype == dtype and batch["labels"].shape == shape


def test_pictures_alone_are_never_shared_so_that_labels_stay_theirs(processor):
    batch = MMDataCollator(processor)([{"image": RED, "label": 0}, {"image": RED, "label": 1}])
    assert batch["pixel_values"].shape[0] == 2 and "context_index" not in batch and "input_ids" not in batch


def test_return_loss_is_added_on_demand(processor):
    assert MMDataCollator(processor, return_loss=True)([{"image": RED, "text": "a"}])["return_loss"] is True
    assert "return_loss" not in MMDataCollator(processor)([{"image": RED, "text": "a"}])


# --------------------------------------------------------------------------------------------------- augmentation


def dye(image, rng):
    return Image.new("RGB", image.size, tuple(int(value) for value in rng.integers(0, 256, 3)))


def test_augmentation_depends_on_seed_epoch_and_sample_alone(processor):
    samples = [{"image": RED, "suffix": "cat", "id": 3}, {"image": BLUE, "suffix": "a", "id": "four"}]
    collator = MMDataCollator(processor, augment=dye, seed=1)
    first = collator(samples)["pixel_values"]
    assert torch.equal(collator(samples[::-1])["pixel_values"].flip(0), first)
    assert torch.equal(pickle.loads(pickle.dumps(collator))(samples[1:])["pixel_values"], first[1:])
    assert not torch.equal(MMDataCollator(processor, augment=dye, seed=2)(samples)["pixel_values"], first)
    collator.set_epoch(1)
    second = collator(samples)["pixel_values"]
    assert not torch.equal(second, first)
    collator.set_epoch(0)
    assert torch.equal(collator(samples)["pixel_values"], first)


def test_augmentation_sees_upright_rgb_and_leaves_evaluation_alone(processor):
    seen = []

    def watch(image, rng):
        seen.append(image.mode)
        return image

    samples = [{"image": Image.new("LA", (4, 4)), "suffix": "cat"}]
    MMDataCollator(processor, augment=watch)(samples)
    assert seen == ["RGB"]
    MMDataCollator(processor, augment=watch, mode="generate")(samples)
    assert seen == ["RGB"]


def test_a_shared_picture_is_augmented_once_for_the_first_of_its_samples(processor):
    samples = [{"image": RED, "text": "a", "id": 7}, {"image": RED, "text": "cat", "id": 8}]
    batch = MMDataCollator(processor, augment=dye)(samples)
    assert torch.equal(batch["pixel_values"][0], pixels_of(processor, dye(RED, sample_rng(0, 0, 7))))


# --------------------------------------------------------------------------------------------------- ready samples


def test_ready_samples_are_padded_and_stacked(processor):
    rows = [{"images": RED, "text": "a", "suffix": "cat"}, {"images": BLUE, "text": "a photo", "suffix": "of dog"}]
    batch = MMDataCollator(processor)([ready(processor, **row) for row in rows])
    expected = processor([RED, BLUE], ["a", "a photo"], suffix=["cat", "of dog"], return_tensors="pt")
    assert set(batch) == set(expected)
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name


def test_cached_features_are_stacked_beside_their_rows(processor):
    samples = [
        {
            "visual_embeds": np.full((5, 4), value, np.float16),
            "input_ids": [CLS, *row, SEP],
            "labels": [-100, *row, SEP],
        }
        for value, row in ((1, [5]), (2, [5, 8]))
    ]
    batch = MMDataCollator(processor)(samples)
    assert batch["visual_embeds"].shape == (2, 5, 4) and batch["visual_embeds"].dtype == torch.float32
    assert batch["input_ids"].tolist() == [[CLS, 5, SEP, PAD], [CLS, 5, 8, SEP]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 5, SEP, -100], [-100, 5, 8, SEP]]
    assert "pixel_values" not in batch
    prompts = MMDataCollator(processor, mode="generate", pad_to_multiple_of=2)(samples)
    assert prompts["input_ids"].tolist() == [[PAD, CLS], [PAD, CLS]] and "labels" not in prompts


@pytest.mark.parametrize("name", ["label", "labels"])
def test_ready_samples_may_carry_a_class(processor, name):
    batch = MMDataCollator(processor)([{"pixel_values": torch.zeros(3, 8, 8), name: value} for value in (1, 0)])
    assert batch["labels"].tolist() == [1, 0] and batch["labels"].dtype == torch.int64
    batch = MMDataCollator(processor)([{"input_ids": [CLS, 5, 6], name: [0.0, 1.0, 1.0]}] * 2)
    assert batch["labels"].shape == (2, 3) and batch["labels"].dtype == torch.float32


# ----------------------------------------------------------------------------------------------------- bad samples


def test_broken_pictures_raise_are_skipped_or_masked(processor):
    samples = [{"image": RED, "suffix": "a"}, {"image": b"broken", "suffix": "cat"}, {"image": BLUE, "suffix": "dog"}]
    with pytest.raises(MediaDecodeError, match=r"images\[1\]\[0\]: cannot decode"):
        MMDataCollator(processor)(samples)
    skipped = MMDataCollator(processor, on_error="skip")(samples)
    assert skipped["input_ids"][:, 1].tolist() == [ID["a"], ID["dog"]] and skipped["pixel_values"].shape == (
        2,
        3,
        8,
        8,
    )
    masked = MMDataCollator(processor, on_error="placeholder")(samples)
    assert masked["pixel_attention_mask"].tolist() == [[True], [False], [True]] and len(masked["input_ids"]) == 3
    with pytest.raises(MediaDecodeError, match="none of the samples"):
        MMDataCollator(processor, on_error="skip")(samples[1:2])


BAD_SAMPLES = [
    ([], ValueError, "no samples"),
    ({"image": RED, "suffix": "cat"}, TypeError, "samples is one dict; accepted is a list"),
    ([{}, {}], ValueError, "remove_unused_columns=False"),
    ([{"caption": "a"}], ValueError, r"hold the columns \['caption'\].* columns=\{\"caption\": \"suffix\"\}"),
    (
        [{"__key__": "0", "jpg": RED, "txt": "a"}],
        ValueError,
        r'MMDataCollator\(processor, columns=\{"jpg": "image", "txt": "suffix"\}\)',
    ),
    ([{"image": RED, "caption_0": "a", "caption_1": "b"}], ValueError, r'columns=\{"caption_0": "suffix"\}'),
    ([{"image": RED, "labels": 1}], ValueError, r'columns=\{"labels": "label"\}'),
    ([{"image": RED, "text": "a", "Answer": "red"}], ValueError, r'columns=\{"Answer": "suffix"\}'),
    ([{"image": RED, "images": [RED], "text": "a"}], ValueError, "sample 0 has both image and images"),
    ([{"images": RED, "text": "a"}], TypeError, "images of sample 0 is a list; got Image"),
    (
        [{"image": RED, "context_text": "a", "suffix": "b"}, {"image": RED, "suffix": "b"}],
        ValueError,
        "context_text is missing from 1 of 2 samples, first from sample 1",
    ),
    ([{"image": RED, "suffix": "a"}, {"image": RED, "suffix": None}], ValueError, "suffix is missing from 1 of 2"),
    ([{"image": RED, "suffix": "a", "label": 1}], ValueError, "both suffix and label"),
    ([{"image": RED, "text": 5}], TypeError, "no string, got int"),
    ([{"image": RED, "text": ["a", "b"], "label": 1}], ValueError, "label of sample 0 is a list of 2"),
    ([{"image": RED, "label": 1}, {"image": RED, "label": [1, 2]}], ValueError, "label has one shape"),
    ([{"image": None}], ValueError, "texts, images, videos or sounds"),
    ([{"input_ids": [1]}, {"text": "a"}], ValueError, r"sample 1 holds the columns \['text'\]"),
    ([{"input_ids": [1], "token_type_ids": [0]}], ValueError, "ready samples hold the same ones"),
    ([{"input_ids": [[1, 2]]}], ValueError, r"without batch dim; got \(1, 2\)"),
    (
        [{"pixel_values": np.zeros((3, 8, 8))}, {"pixel_values": np.zeros((3, 9, 9))}],
        ValueError,
        "pixel_values of ready samples",
    ),
    ([{"input_ids": [1] * 9}], ValueError, "9 tokens, more than max_length=8"),
]


@pytest.mark.parametrize(("samples", "kind", "message"), BAD_SAMPLES)
def test_bad_samples_raise_in_words(processor, samples, kind, message):
    with pytest.raises(kind, match=message):
        MMDataCollator(processor, max_length=8)(samples)


def test_an_augmentation_that_gives_no_image_raises_in_words(processor):
    def to_array(image, rng) -> Any:
        return np.asarray(image)

    with pytest.raises(TypeError, match="augment takes a PIL image.*got ndarray"):
        MMDataCollator(processor, augment=to_array)([{"image": RED, "text": "a"}])


def test_an_augmentation_may_give_a_picture_of_any_mode(processor):
    sample = [{"image": Image.new("RGB", (9, 7), (10, 100, 200)), "text": "a"}]
    grey = MMDataCollator(processor, augment=lambda image, rng: image.convert("L"))(sample)
    same = MMDataCollator(processor, augment=lambda image, rng: image.convert("L").convert("RGB"))(sample)
    assert torch.equal(grey["pixel_values"], same["pixel_values"])


BAD_OPTIONS = {
    "mode": ("eval", None, 3),
    "padding_side": (None, "up"),
    "on_error": ("ignore", None),
    "seed": ("a", None, -1, 1.5, True),
    "max_length": (-1, 0, "8", 2.0, True),
    "pad_to_multiple_of": (0, -8, "8", 1.5),
    "patch_size": (0, "4", (4, 4)),
    "blank_media": ("no", 1, None),
    "share_media": ("yes", 0),
    "return_loss": (1, None),
    "masked_lm": ("no", 1),
    "masked_targets": (1,),
    "mlm_probability": ("a", 1.5, -0.1, True, None, float("nan")),
    "mim_ratio": ("a", 2, None),
    "guidance_dropout": ("a", -1, None),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_OPTIONS.items() for value in values]
)
def test_bad_options_raise_in_words(processor, name, value):
    """When the collator is made, not when a worker of Trainer has it make a batch."""
    with pytest.raises(ValueError, match=f"{name}=.*accepted are"):
        MMDataCollator(processor, **{name: value})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"on_fault": 3}, "on_fault=3; accepted is a function of a MediaDecodeError, or None"),
        ({"features": "store"}, "features is what mm.store_features returns; got str"),
        ({"columns": ["caption"]}, "columns is a dict"),
        ({"processor": "a folder"}, "processor must be an MMProcessor; got str"),
    ],
)
def test_options_of_another_type_raise_in_words(processor, options, told):
    with pytest.raises(TypeError, match=told):
        MMDataCollator(**{"processor": processor, **options})
    with pytest.raises(ValueError, match="augment=3; accepted are"):
        MMDataCollator(processor, augment=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="epoch=-1; accepted are whole numbers from 0"):
        MMDataCollator(processor).set_epoch(-1)
