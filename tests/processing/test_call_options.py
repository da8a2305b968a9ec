"""The options of a call of MMProcessor: where they may stand, what stands behind them, and what is refused."""

# Fixtures and wrong calls on purpose.

import io
import wave

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, WhisperFeatureExtractor

from mm import MMImageProcessorPil, MMProcessor

WORDS = {word: number for number, word in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] a red cat sat".split())}
FRAMES = [Image.new("RGB", (20, 20), (12 * number, 0, 0)) for number in range(11)]
TONE = np.sin(np.arange(1600) / 9).astype(np.float32)


@pytest.fixture
def parts():
    extractor = WhisperFeatureExtractor(feature_size=8, n_fft=64, hop_length=32, chunk_length=1)
    pictures = MMImageProcessorPil(size={"height": 16, "width": 16})
    return {"image_processor": pictures, "tokenizer": BertTokenizer(vocab=WORDS), "feature_extractor": extractor}


@pytest.fixture
def processor(parts):
    return MMProcessor(**parts)


def same(first, second) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_options_mean_the_same_by_themselves_and_nested_by_kind(processor):
    given = {"images": FRAMES[3], "text": ["a cat"], "videos": [[FRAMES]], "return_tensors": "pt"}
    flat = processor(**given, max_length=3, num_frames=4, do_normalize=False, padding="max_length")
    nested = processor(
        **given,
        text_kwargs={"max_length": 3, "padding": "max_length"},
        videos_kwargs={"num_frames": 4, "do_normalize": False},
        images_kwargs={"do_normalize": False},
    )
    assert same(flat, nested) and flat["input_ids"].shape == (1, 3)
    behind = processor(**given, common_kwargs={"num_frames": 2}, videos_kwargs={"num_frames": 4})
    assert behind["pixel_values_videos"].shape[1] == 4
    both = {"text_kwargs": {"return_tensors": "np"}, "images_kwargs": {"return_tensors": "np"}}
    assert isinstance(processor(images=FRAMES[0], text="a", **both)["pixel_values"], np.ndarray)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"max_length": 3, "text_kwargs": {"max_length": 3}}, ValueError, "max_length was given twice"),
        ({"text_kwargs": ["max_length"]}, TypeError, "text_kwargs is a dict of options; got list"),
        ({"max_lenght": 3}, TypeError, r"unknown arguments \['max_lenght'\]"),
        ({"fps": 2, "frame_sampling": "keyframes"}, ValueError, "both say which frames"),
        ({"return_offsets_mapping": True}, ValueError, "is for chats"),
        ({"images_kwargs": {"num_frames": 3}}, TypeError, "num_frames is no option of images_kwargs"),
        ({"audio_kwargs": {"size": 8}}, TypeError, "size is no option of audio_kwargs; known are"),
        ({"text_kwargs": {"stride": 8}}, TypeError, "stride is no option of text_kwargs; known are"),
        ({"videos_kwargs": {"sise": 8}}, TypeError, r"unknown arguments \['sise'\]"),
        ({"allow_urls": "no"}, TypeError, "allow_urls='no'; accepted are True or False"),
        ({"add_eos_token": 1}, TypeError, "add_eos_token=1; accepted are True or False"),
        ({"max_pixels": "many"}, ValueError, "max_pixels='many'; accepted are numbers above 0"),
        ({"images_kwargs": {"max_bytes": -1}}, ValueError, "max_bytes=-1; accepted are numbers above 0"),
        ({"fps": 2, "do_sample_frames": False}, ValueError, "fps with do_sample_frames=False: every frame"),
    ],
)
def test_wrong_options_are_refused_by_name(processor, options, kind, words):
    with pytest.raises(kind, match=words):
        processor(text="a cat", **options)


def test_options_nested_for_one_kind_leave_the_others_alone(processor):
    small, large = {"height": 8, "width": 8}, {"height": 24, "width": 24}
    given = {"images": FRAMES[3], "videos": [[FRAMES]], "audio": {"array": np.tile(TONE, 12), "sampling_rate": 16000}}
    read = processor(
        **given,
        images_kwargs={"size": small},
        videos_kwargs={"size": large, "max_seconds": 0.5},
        audio_kwargs={"max_seconds": 5},
        return_tensors="pt",
    )
    assert read["pixel_values"].shape[-2:] == (8, 8) and read["pixel_values_videos"].shape[-2:] == (24, 24)
    assert read["input_features"].shape[1] == 2
    alone = processor(**given, videos_kwargs={"size": large}, return_tensors="pt")
    assert torch.equal(alone["pixel_values"], processor(**given, return_tensors="pt")["pixel_values"])
    with pytest.raises(ValueError, match=r"it lasts 1.2 s; max_seconds=1 allows no more"):
        processor(**given, audio_kwargs={"max_seconds": 1})


def test_a_rate_for_frames_without_times_is_said_to_be_none(processor, caplog):
    given = processor(videos=[FRAMES], fps=1, return_tensors="pt")
    assert "frame_sampling=1: frames that are given have no times; at most num_frames=8" in caplog.text
    caplog.clear()
    processor.frame_sampling = 2.0  # a default for files
    assert same(given, processor(videos=[FRAMES], return_tensors="pt")) and not caplog.text


def test_defaults_are_saved_and_others_are_refused(parts, tmp_path):
    MMProcessor(**parts, num_frames=3, add_eos_token=True, frame_sampling=2.0).save_pretrained(tmp_path)
    loaded = MMProcessor.from_pretrained(tmp_path)
    assert (loaded.num_frames, loaded.add_eos_token, loaded.frame_sampling) == (3, True, 2.0)
    assert MMProcessor.from_pretrained(tmp_path, num_frames=5).num_frames == 5
    with pytest.raises(TypeError, match=r"unknown arguments \['num_frame'\]"):
        MMProcessor(**parts, num_frame=3)


def test_what_the_tokenizer_was_saved_with_stands_behind_a_call(parts, processor, tmp_path):
    parts["tokenizer"].save_pretrained(tmp_path)
    saved = BertTokenizer.from_pretrained(tmp_path, padding="max_length", max_length=7)
    padding = MMProcessor(**{**parts, "tokenizer": saved})
    assert padding(text="a cat", return_tensors="pt")["input_ids"].shape == (1, 7)
    assert padding(text="a cat", return_tensors="pt", padding=True)["input_ids"].shape == (1, 3)
    assert processor(text="a cat", return_tensors="pt")["input_ids"].shape == (1, 3)


def test_given_frames_may_be_taken_as_they_are(processor):
    def frames(**options):
        return processor(videos=[FRAMES], return_tensors="pt", **options)["pixel_values_videos"]

    assert frames().shape[1] == 8 and frames(num_frames=None, fps=None).shape[1] == 8
    whole = frames(do_sample_frames=False)
    assert whole.shape[1] == len(FRAMES) and torch.equal(whole, frames(num_frames=len(FRAMES)))
    with pytest.raises(ValueError, match=r"videos\[0\]\[0\]: do_sample_frames=False takes videos .* as their frames"):
        processor(videos=b"a film", do_sample_frames=False)


def test_an_array_without_a_rate_is_read_at_the_extractor_s_with_a_warning(processor, caplog):
    given = processor(audio=TONE, return_tensors="pt")
    assert "sampling_rate was not given: arrays of sound are read as 16000 samples a second" in caplog.text
    caplog.clear()
    assert same(given, processor(audio=TONE, sampling_rate=16000, return_tensors="pt"))
    assert same(given, processor(audio={"array": TONE, "sampling_rate": 16000}, return_tensors="pt"))
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(b"\0\1" * 900)
    processor(audio=file.getvalue())
    assert not caplog.text


def test_a_chat_tells_which_tokens_the_assistant_wrote(processor):
    template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
        "{% else %}{{ m['content'] }} {% endif %}{% endfor %}"
    )
    chats = [
        [{"role": "user", "content": "a red"}, {"role": "assistant", "content": "cat sat"}],
        [{"role": "user", "content": "[SEP] a"}, {"role": "assistant", "content": "cat"}],
    ]
    for side in ("left", "right"):
        given = processor.apply_chat_template(
            chats,
            template,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding_side": side},
        )
        chosen = [row[mask.bool()].tolist() for row, mask in zip(given.input_ids, given.assistant_masks, strict=True)]
        assert chosen == [[WORDS["cat"], WORDS["sat"]], [WORDS["cat"]]]
        assert WORDS["[SEP]"] not in given.input_ids  # a user wrote it: it is text
