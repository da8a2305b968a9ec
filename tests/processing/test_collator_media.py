"""MMDataCollator on videos, sounds and context texts, on mixed and undecoded samples, and in worker processes."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from transformers import BertTokenizer, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from comparing import close
from mm.processing.collator import MMDataCollator
from mm.processing.images.load import MediaDecodeError
from mm.processing.images.processor import MMImageProcessorPil
from mm.processing.processor import MMProcessor

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of cat dog red".split()
PAD, UNK, CLS, SEP = range(4)
ID = {word: number for number, word in enumerate(WORDS)}
RED, BLUE = (Image.new("RGB", (9, 7), colour) for colour in ("red", "blue"))
FILM = [RED, BLUE, RED]
SOUND = {"array": np.sin(np.arange(1600) / 9).astype(np.float32), "sampling_rate": 16000}


def make_processor(**settings):
    extractor = WhisperFeatureExtractor(feature_size=12, chunk_length=1)
    tokenizer = BertTokenizer(vocab=dict(ID))
    return MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, extractor, **settings)


@pytest.fixture(scope="module")
def processor():
    return make_processor(num_frames=4)


def assert_equal(batch, expected):
    assert set(batch) == set(expected)
    for name, value in expected.items():
        assert batch[name].dtype == value.dtype, name
        if name == "input_features":  # matrix products made them
            close(batch[name], value)
        else:
            assert torch.equal(batch[name], value), name


def test_videos_and_sounds_become_the_processors_batch(processor):
    samples = [
        {"video": FILM, "audio": SOUND, "text": "a", "suffix": "cat"},
        {"videos": [FILM[:1], FILM], "audios": [], "text": "a photo", "suffix": "of dog"},
    ]
    expected = processor(
        videos=[[FILM], [FILM[:1], FILM]], audio=[[SOUND], []], text=["a", "a photo"], suffix=["cat", "of dog"],
        return_tensors="pt",
    )  # fmt: skip
    batch = MMDataCollator(processor)(samples)
    assert_equal(batch, expected)
    assert next(iter(batch)) == "input_ids"


def test_samples_share_the_context_of_equal_media_of_every_kind(processor):
    samples = [
        {"video": FILM, "image": RED, "text": "a"},
        {"video": FILM, "image": RED, "text": "cat"},
        {"video": FILM, "image": BLUE, "text": "dog"},
    ]
    batch = MMDataCollator(processor)(samples)
    assert batch["context_index"].tolist() == [0, 0, 1]
    assert len(batch["pixel_values"]) == len(batch["pixel_values_videos"]) == 2
    samples[1]["video"] = list(FILM)  # another object: nothing is compared by its content but bytes
    assert len(MMDataCollator(processor)(samples)["pixel_values"]) == 3


def test_text_alone_pictures_videos_and_sounds_may_be_mixed(processor):
    samples = [
        {"image": RED, "text": "a"},
        {"text": "cat"},
        {"video": FILM, "text": "dog"},
        {"audio": SOUND, "text": "red"},
    ]
    batch = MMDataCollator(processor)(samples)
    assert batch["pixel_attention_mask"].flatten().tolist() == [True, False, False, False]
    assert batch["video_attention_mask"].any(-1).flatten().tolist() == [False, False, True, False]
    assert batch["input_features_mask"].flatten().tolist() == [False, False, False, True]
    assert "context_index" not in batch


def test_a_kind_that_the_batch_lacks_is_a_masked_blank(processor):
    samples = [{"image": RED, "video": None, "audio": None, "text": "a"}, {"image": BLUE, "text": "cat"}]
    batch = MMDataCollator(processor)(samples)
    assert batch["pixel_values_videos"].shape == (2, 1, 1, 3, 16, 16) and not batch["video_attention_mask"].any()
    assert batch["input_features"].shape[:2] == (2, 1) and batch["input_features_mask"].tolist() == [[False]] * 2
    none = MMDataCollator(processor)([{"video": None, "text": "a"}, {"video": None, "text": "cat"}])
    assert none["video_attention_mask"].shape == (1, 1, 1) and none["context_index"].tolist() == [0, 0]
    assert "pixel_values" not in none
    bare = MMDataCollator(processor, blank_media=False)(samples)
    assert set(bare) == {"input_ids", "attention_mask", "pixel_values"}


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_blanks_change_nothing_for_the_model(tiny_model, modality):
    audio = {"audio_config": "whisper"} if modality == "audio" else {}
    model = tiny_model(modalities=[modality], dtype=torch.float32, **audio)
    processor = make_processor()
    processor.feature_extractor.n_samples = 8 * 160
    batch = MMDataCollator(processor)([{modality: None, "text": "a photo"}, {modality: None, "text": "a cat"}])
    assert len(batch) == 5
    bare = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(model(**batch).logits, bare.logits, rtol=1e-5, atol=1e-5)


def test_undecoded_columns_of_datasets_are_read_when_the_batch_is_made(processor, tmp_path):
    RED.save(tmp_path / "red.png")
    data = (tmp_path / "red.png").read_bytes()
    samples = [
        {"image": {"bytes": data, "path": None}, "text": "a"},
        {"image": {"bytes": None, "path": str(tmp_path / "red.png")}, "text": "cat"},
        {"image": {"bytes": bytes(bytearray(data)), "path": "elsewhere.png"}, "text": "dog"},
    ]
    batch = MMDataCollator(processor)(samples)
    assert batch["context_index"].tolist() == [0, 1, 0]
    assert torch.equal(batch["pixel_values"][0], batch["pixel_values"][1])


# ---------------------------------------------------------------------------------------------------- ready samples

READY = [
    {"videos": [[FILM], [FILM[:2]], [[RED]]]},
    {"videos": [[FILM], [FILM[:1], FILM], [[RED]]]},
    {"videos": [FILM, FILM, FILM[::-1]]},
    {"audio": [[SOUND], [SOUND, SOUND], [SOUND]]},
    {"audio": [SOUND, SOUND, SOUND]},
    {"images": [[RED], [BLUE, RED], [RED]]},
    {"images": [RED, BLUE, RED], "videos": [FILM, FILM[:2], FILM], "audio": [SOUND, [SOUND] * 3, SOUND]},
    {"images": [RED, BLUE, RED], "context_text": ["a", "a photo", "of"]},
]


@pytest.mark.parametrize("media", READY, ids=lambda media: "-".join(media))
@pytest.mark.parametrize("extractor", ["window", "frames"])
def test_ready_samples_of_every_kind_give_the_processors_batch(processor, media, extractor):
    if extractor == "frames":
        lengths = {"audio": [{**SOUND, "array": SOUND["array"][: 900 + 300 * row]} for row in range(3)]}
        media = media | (lengths if media.keys() == {"audio"} else {})
        own = Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False)
        processor = MMProcessor(processor.image_processor, processor.tokenizer, own, num_frames=4)
    rows = {"text": ["a", "a photo", "cat"], "suffix": ["cat", "of dog", "red"]}
    rows = {"suffix": rows["suffix"]} if "context_text" in media else rows
    expected = processor(**media, **rows, return_tensors="pt")
    samples = []
    for row in range(3):
        one = processor(**{name: [values[row]] for name, values in (media | rows).items()}, return_tensors="pt")
        samples.append({name: value[0] for name, value in one.items()})
    assert_equal(MMDataCollator(processor)(samples), expected)


def test_a_ready_picture_without_a_mask_of_patches_is_whole_beside_those_with_one(processor):
    present = torch.tensor([[True, False]])
    samples = [{"pixel_values": torch.zeros(3, 8, 16)} for _ in range(3)]
    samples[1]["pixel_attention_mask"] = present
    batch = MMDataCollator(processor)(samples)
    assert batch["pixel_attention_mask"].tolist() == [[[True, True]], present.tolist(), [[True, True]]]


def test_prompts_of_ready_samples_lose_their_padding_where_they_are_gone_on_from(processor):
    given = processor(text=["a", "a photo of"], suffix=["cat", "a dog"], add_eos_token=True, return_tensors="pt")
    samples = [{name: value[row] for name, value in given.items()} for row in range(2)]
    batch = MMDataCollator(processor, mode="generate")(samples)
    assert_equal(batch, processor(text=["a", "a photo of"], return_tensors="pt"))


def test_ready_media_of_other_sizes_are_refused(processor):
    samples = [{"pixel_values_videos": torch.zeros(2, 3, side, side)} for side in (8, 9)]
    with pytest.raises(ValueError, match="pixel_values_videos of ready samples has one shape"):
        MMDataCollator(processor)(samples)
    with pytest.raises(ValueError, match="ready samples hold the same ones throughout"):
        MMDataCollator(processor)([{"input_ids": [CLS], "context_index": 0}] * 2)
    with pytest.raises(ValueError, match="ready samples hold the same ones throughout"):
        MMDataCollator(processor)([{"input_ids": [CLS], "video_attention_mask": [True]}])


# ---------------------------------------------------------------------------------------------------- context texts


def test_context_texts_are_contexts_over_shared_media(processor):
    samples = [
        {"image": RED, "context_text": "a", "suffix": "cat"},
        {"image": RED, "context_text": "photo", "suffix": "dog"},
        {"image": BLUE, "context_text": "of", "suffix": "red"},
    ]
    batch = MMDataCollator(processor)(samples)
    assert batch["context_input_ids"][:, 1].tolist() == [ID["a"], ID["photo"], ID["of"]]
    assert batch["media_index"].tolist() == [0, 0, 1] and "context_index" not in batch
    assert batch["labels"][:, 1].tolist() == [ID["cat"], ID["dog"], ID["red"]]


def test_several_questions_of_a_sample_and_several_answers_of_a_question(processor):
    samples = [
        {"image": RED, "context_text": ["a", "photo"], "suffix": ["cat", ["dog", "red"]]},
        {"image": BLUE, "context_text": "of", "suffix": ["cat", "dog"]},
    ]
    batch = MMDataCollator(processor)(samples)
    assert batch["media_index"].tolist() == [0, 0, 1] and batch["context_index"].tolist() == [0, 1, 1, 2, 2]
    prompts = MMDataCollator(processor, mode="generate")(samples)
    assert prompts["input_ids"].tolist() == [[CLS]] * 3 and "labels" not in prompts
    assert "context_index" not in prompts and prompts["media_index"].tolist() == [0, 0, 1]


def test_prompts_that_go_to_the_context_do_so_here_too():
    processor = make_processor(prompt_to="context")
    samples = [{"image": RED, "text": "a photo", "suffix": "cat"}, {"image": RED, "text": "a", "suffix": "dog"}]
    batch = MMDataCollator(processor)(samples)
    expected = processor([RED, RED], ["a photo", "a"], suffix=["cat", "dog"], return_tensors="pt")
    shared = {name: value for name, value in expected.items() if name != "pixel_values"}
    assert {name: batch[name].tolist() for name in shared} == {name: value.tolist() for name, value in shared.items()}
    assert batch["media_index"].tolist() == [0, 0] and len(batch["pixel_values"]) == 1
    prompts = MMDataCollator(processor, mode="generate")(samples)
    assert torch.equal(prompts["context_input_ids"], batch["context_input_ids"])
    assert prompts["input_ids"].tolist() == [[CLS], [CLS]]


def test_a_model_with_a_text_encoder_trains_on_the_batch_as_on_single_samples(tiny_model):
    model = tiny_model(text_encoder_config="tiny", dtype=torch.float32)
    samples = [
        {"image": RED, "context_text": "a photo", "suffix": "cat dog"},
        {"image": RED, "context_text": "of", "suffix": "red cat"},
        {"image": None, "context_text": "of", "suffix": "red cat"},
    ]
    collator = MMDataCollator(make_processor(), blank_media=False)
    losses = [model(**collator([sample])).loss for sample in samples]
    torch.testing.assert_close(model(**collator(samples)).loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------- skipping, workers


def test_bad_videos_and_sounds_follow_the_policy(processor):
    samples = [
        {"video": FILM, "audio": SOUND, "text": "a"},
        {"video": b"bad", "text": "cat"},
        {"audio": b"bad", "text": "dog"},
    ]
    with pytest.raises(MediaDecodeError, match=r"videos\[1\]\[0\]: cannot decode"):
        MMDataCollator(processor)(samples)
    assert MMDataCollator(processor, on_error="skip")(samples)["input_ids"].tolist() == [[CLS, ID["a"]]]
    masked = MMDataCollator(processor, on_error="placeholder")(samples)
    assert masked["video_attention_mask"].any(-1).flatten().tolist() == [True, False, False]
    assert masked["input_features_mask"].flatten().tolist() == [True, False, False]


def test_columns_of_a_wrong_form_raise_in_words(processor):
    for sample, kind, message in (
        ({"video": FILM, "videos": [FILM], "text": "a"}, ValueError, "sample 0 has both video and videos"),
        ({"audios": SOUND, "text": "a"}, TypeError, "audios of sample 0 is a list; got dict"),
        (
            {"image": RED, "context_text": ["a", "of"], "suffix": ["cat"]},
            ValueError,
            "suffix is nested like context_text",
        ),
    ):
        with pytest.raises(kind, match=message):
            MMDataCollator(processor)([sample])


def noise(image, rng):
    return Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))


def as_bytes(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


SAMPLES = [
    {
        "id": number,
        "image": as_bytes(RED) if number % 3 else None,
        "video": FILM if number % 2 else None,
        "text": "a photo of",
        "suffix": "cat dog" if number % 4 else "red",
    }
    for number in range(8)
]


def batches(workers, order, batch_size, epoch):
    collator = MMDataCollator(make_processor(), augment=noise, seed=3, mlm_probability=0.5)
    collator.set_epoch(epoch)
    loader = DataLoader(SAMPLES, batch_size, sampler=order, collate_fn=collator, num_workers=workers)  # pyright: ignore[reportArgumentType]: a list is a dataset
    return list(loader)


@settings(max_examples=4, deadline=None)
@given(
    workers=st.integers(1, 2),
    order=st.permutations(range(len(SAMPLES))),
    batch_size=st.integers(1, 4),
    epoch=st.integers(0, 5),
)
def test_batches_do_not_depend_on_the_number_of_workers(workers, order, batch_size, epoch):
    for found, expected in zip(
        batches(workers, order, batch_size, epoch), batches(0, order, batch_size, epoch), strict=True
    ):
        assert_equal(found, expected)


def test_frames_of_a_video_are_augmented_alike_and_apart_from_other_samples(processor):
    collator = MMDataCollator(processor, augment=noise)
    batch = collator([{"id": 1, "video": FILM, "text": "a"}, {"id": 2, "video": list(FILM), "text": "a"}])
    first, second = batch["pixel_values_videos"]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], second[0])
