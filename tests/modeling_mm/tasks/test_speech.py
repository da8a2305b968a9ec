"""MMForSpeechSeq2Seq: tokens, segments and times are those of the installed Whisper on the same features."""

# Fixtures build models whose types pyright cannot follow.

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq, WhisperForConditionalGeneration

from mm import MMConfig, MMForSpeechSeq2Seq, convert
from whispers import BANDS, IDS, lively_whisper, sounds_of, whisper_config, whisper_extractor

PROMPT = torch.tensor([IDS["<|startofprev|>"], 5, 60, 7])
FORCED = [[1, IDS["<|fr|>"]], [2, IDS["<|translate|>"]], [3, IDS["<|notimestamps|>"]]]
# name -> settings of generate(): short sounds, three in a batch.
SHORT: dict[str, dict[str, Any]] = {
    "the language is detected": {},
    "beams, detected": {"num_beams": 3},
    "timestamps and beams": {"return_timestamps": True, "num_beams": 3, "language": "en"},
    "word times and beams": {"return_token_timestamps": True, "num_beams": 3, "language": "en"},
    "a prompt": {"prompt_ids": PROMPT, "language": "en"},
    "one language": {"language": "de"},
    "a language by its name": {"language": "french"},
    "a language by its token": {"language": "<|de|>"},
    "a language of each": {"language": ["de", "en", "fr"]},
    "translate": {"task": "translate", "language": "fr"},
    "translate, detected": {"task": "translate"},
    "timestamps": {"return_timestamps": True},
    "timestamps and segments": {"return_timestamps": True, "return_segments": True, "language": "en"},
    "word times": {"return_token_timestamps": True, "language": "en"},
    "word and segment times": {"return_token_timestamps": True, "return_timestamps": True, "return_segments": True},
    "a prompt and beams": {"prompt_ids": PROMPT, "language": "en", "num_beams": 2},
    "a prompt and timestamps": {"prompt_ids": PROMPT, "language": "en", "return_timestamps": True},
    "a prompt before all segments": {
        "prompt_ids": PROMPT, "return_timestamps": True, "condition_on_prev_tokens": True,
        "prompt_condition_type": "all-segments", "language": "en",
    },
    "five beams": {"num_beams": 5, "language": "en"},
    "beams without hurry": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True, "language": "en"},
    "two of the beams": {"num_beams": 3, "num_return_sequences": 2, "language": "en"},
    "few new tokens": {"max_new_tokens": 5, "language": "de"},
    "at least so many": {"min_new_tokens": 12, "language": "de"},
    "nothing suppressed": {"suppress_tokens": None, "begin_suppress_tokens": None, "language": "en"},
    "much suppressed": {"suppress_tokens": list(range(0, 250, 2)), "language": "en"},
    "suppressed at the beginning": {"begin_suppress_tokens": list(range(200, 250)), "language": "en"},
    "no repeats": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "language": "en"},
    "sampled": {"do_sample": True, "temperature": 0.7, "language": "en"},
    "silence by its threshold": {
        "no_speech_threshold": 0.5, "logprob_threshold": -1.0, "temperature": (0.0, 0.6), "language": "en",
        "return_timestamps": True,
    },
    "everything of a search": {
        "return_dict_in_generate": True, "output_scores": True, "num_beams": 2, "language": "en",
    },
    "forced ids": {"forced_decoder_ids": FORCED},
}  # fmt: skip
SHORT_FAST = list(SHORT)[1:4]
# Of one sound of 4.3 windows.
LONG: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3, "language": "en"},
    "fallback": {
        "language": "en", "temperature": (0.0, 0.4, 0.8), "compression_ratio_threshold": 1.2,
        "logprob_threshold": -1.0, "no_speech_threshold": 0.1,
    },
    "plain": {},
    "previous text": {"condition_on_prev_tokens": True, "language": "de"},
    "a prompt": {"prompt_ids": PROMPT, "language": "en"},
    "word times": {"return_token_timestamps": True, "language": "en"},
    "word times and beams": {"return_token_timestamps": True, "language": "en", "num_beams": 2},
}  # fmt: skip
LONG_FAST = ("fallback",)


def some(settings, fast):
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in settings]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    theirs = lively_whisper()
    theirs.save_pretrained(folder)
    return theirs, convert(folder).model


def written(model, sounds, settings) -> Any:
    torch.manual_seed(0)
    decoding, settings = model.generation_config, dict(settings)
    kept = decoding.to_dict()
    for name in ("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids"):
        if name in settings:
            setattr(decoding, name, settings.pop(name))
    try:
        return model.generate(sounds, **settings)
    finally:
        for name in ("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids"):
            setattr(decoding, name, kept.get(name))


def told(segments) -> list:
    return [[(float(one["start"]), float(one["end"]), one["tokens"].tolist()) for one in row] for row in segments]


def assert_same(here, there) -> None:
    if torch.is_tensor(there):
        assert torch.equal(here, there)
        return
    assert torch.equal(here["sequences"], there["sequences"])
    if "segments" in there:
        assert told(here["segments"]) == told(there["segments"])
    for name in there.keys() & {"token_timestamps", "sequences_scores"}:
        assert (here[name] - there[name]).abs().max() <= 1e-6
    for one, two in zip(here.get("scores") or [], there.get("scores") or [], strict=True):
        finite = two.isfinite()
        assert torch.equal(one.isfinite(), finite) and (one[finite] - two[finite]).abs().max() <= 1e-9


@pytest.mark.parametrize("name", some(SHORT, SHORT_FAST))
def test_short_sounds_give_the_tokens_of_transformers(pair, name):
    theirs, ours = pair
    sounds = sounds_of(theirs.config, 3)
    there = written(theirs, sounds, SHORT[name])
    ids = there if torch.is_tensor(there) else there["sequences"]
    assert len(ids.unique()) > 4  # it says something
    assert_same(written(ours, sounds, SHORT[name]), there)


@pytest.mark.parametrize("name", some(LONG, LONG_FAST))
def test_long_sounds_give_the_segments_of_transformers(pair, name):
    theirs, ours = pair
    settings = {**LONG[name], "return_timestamps": True, "return_segments": True}
    sounds = sounds_of(theirs.config, 1, 4.3)
    there = written(theirs, sounds, settings)
    assert len(there["segments"][0]) > 4
    assert_same(written(ours, sounds, settings), there)


def speech(number: int) -> np.ndarray:
    """Like a word or two: a voice whose pitch falls through three formants, in syllables."""
    rng, rate = np.random.default_rng(number), 16000
    times = np.arange(int(rng.uniform(0.6, 2.2) * rate)) / rate
    pitch = rng.uniform(90, 220) * (1 - 0.1 * times)
    phase, formants = 2 * np.pi * np.cumsum(pitch) / rate, rng.uniform((300, 900, 2200), (800, 2200, 3200))
    voice = sum(
        np.exp(-((harmonic * pitch[:, None] - formants) ** 2 / 2e4)).sum(1) * np.sin(harmonic * phase)
        for harmonic in range(1, 25)
    )
    syllables = np.abs(np.sin(np.pi * times * rng.uniform(2, 5)))
    return (0.2 * voice * syllables + 1e-3 * rng.standard_normal(len(times))).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"num_beams": 2, "return_token_timestamps": True}], ids=["plain", "beams"])
def test_recordings_joined_to_a_long_sound_give_the_segments_of_transformers(pair, settings):
    """Twelve of them, of unequal length, with pauses: some twenty windows."""
    theirs, ours = pair
    pause = np.zeros(4000, np.float32)
    joined = np.concatenate([part for number in range(12) for part in (speech(number), pause)])
    features = whisper_extractor()(
        joined, sampling_rate=16000, return_tensors="pt", truncation=False, return_attention_mask=True
    )
    sounds, mask = features.input_features.double(), features.attention_mask
    asked = {"language": "en", **settings, "return_timestamps": True, "return_segments": True, "attention_mask": mask}
    there = written(theirs, sounds, asked)
    assert len(there["segments"][0]) > 12 and there["segments"][0][-1]["end"] > 12
    assert_same(written(ours, sounds, asked), there)


@pytest.mark.parametrize("beams", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_sounds_of_a_batch_are_transcribed_as_alone(pair, beams):
    """Of unequal lengths; and the batch is that of Transformers."""
    theirs, ours = pair
    lengths, settings = [430, 250, 90], {"num_beams": beams, "return_timestamps": True, "return_segments": True}
    sounds = sounds_of(theirs.config, 3, 4.3)
    mask = torch.arange(430) < torch.tensor(lengths)[:, None]
    together = ours.generate(sounds * mask[:, None], attention_mask=mask.long(), **settings)
    for row, length in enumerate(lengths):
        alone = ours.generate(sounds[row : row + 1, :, :length], **settings)
        assert told(alone["segments"])[0] == told(together["segments"])[row]
    assert_same(together, theirs.generate(sounds * mask[:, None], attention_mask=mask.long(), **settings))


@pytest.mark.slow
def test_previous_text_in_a_batch_leaves_a_sound_the_room_that_it_has_alone(pair):
    """In Transformers' batch every window has the room after the longest text before any of them."""
    theirs, ours = pair
    lengths, languages = [430, 380], ["de", "en"]
    sounds = torch.randn(2, BANDS, 430, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mask = torch.arange(430) < torch.tensor(lengths)[:, None]
    asked = {"return_timestamps": True, "condition_on_prev_tokens": True, "return_segments": True}
    batch = {"attention_mask": mask.long(), "language": languages, **asked}
    together = ours.generate(sounds * mask[:, None], **batch)
    stock = theirs.generate(sounds * mask[:, None], **batch)
    assert told(stock["segments"]) != told(together["segments"])
    for row, (length, language) in enumerate(zip(lengths, languages, strict=True)):
        alone = ours.generate(sounds[row : row + 1, :, :length], **asked, language=language)
        assert told(alone["segments"])[0] == told(together["segments"])[row]
        ids, own = together["sequences"][row], alone["sequences"][0]
        assert torch.equal(ids[: len(own)], own) and (ids[len(own) :] == ours.generation_config.pad_token_id).all()
    with pytest.raises(ValueError, match="need attention_mask"):
        ours.generate(sounds, **asked)


def test_a_model_of_english_alone_takes_no_language(tmp_path):
    theirs = lively_whisper()
    theirs.generation_config.is_multilingual = False
    del theirs.generation_config.lang_to_id, theirs.generation_config.task_to_id
    theirs.save_pretrained(tmp_path)
    ours, sounds = convert(tmp_path).model, sounds_of(theirs.config)
    assert torch.equal(ours.generate(sounds), theirs.generate(sounds))
    with pytest.raises(ValueError, match="English-only"):
        ours.generate(sounds, language="de")


def test_rows_of_ids_are_continued_as_in_any_model(pair):
    theirs, ours = pair
    ids = torch.tensor([[IDS["<|startoftranscript|>"], IDS["<|en|>"], IDS["<|transcribe|>"], 7]] * 2)
    sounds, settings = sounds_of(theirs.config), {"max_new_tokens": 6, "do_sample": False}
    here = ours.generate(input_ids=ids, input_features=sounds[:, None], **settings)
    there = super(WhisperForConditionalGeneration.__mro__[1], theirs).generate(
        sounds, decoder_input_ids=ids, **settings
    )
    assert torch.equal(here, there)


def test_a_window_is_encoded_once_for_language_silence_and_temperatures(pair):
    """Transformers' own class encodes it anew for each of them."""
    theirs, ours = pair
    settings = {"return_timestamps": True, "no_speech_threshold": 0.5, "logprob_threshold": 1.0}
    settings |= {"temperature": (0.0, 0.5), "force_unique_generate_call": True}
    calls = {}
    for name, tower in (("theirs", theirs.model.encoder), ("ours", ours.model.audio_tower)):
        seen: list[int] = []
        hook = tower.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        written(theirs if name == "theirs" else ours, sounds_of(theirs.config), settings)
        hook.remove()
        calls[name] = len(seen)
    assert calls["ours"] == 1 and calls["theirs"] >= 4


def test_what_is_not_done_or_fits_not_is_refused_in_words(pair):
    theirs, ours = pair
    sounds = sounds_of(theirs.config)
    for wrong, words in (
        ({"inputs": sounds[0]}, r"float \(B, 12, frames\)"),
        ({"inputs": sounds[:, :5]}, r"float \(B, 12, frames\).*\(2, 5, 100\)"),
        ({"inputs": sounds[..., :0]}, "some of each"),
        ({"inputs": sounds[:, None].expand(-1, 2, -1, -1)}, "2 clips of each sample.*truncation=False"),
        ({"inputs": torch.full_like(sounds, np.nan)}, "NaN"),
        ({"inputs": sounds, "input_features": sounds}, "given twice"),
        ({"inputs": sounds, "assistant_model": theirs}, "assisted decoding is not done"),
        ({"inputs": sounds, "encoder_outputs": sounds}, "states of the encoder"),
        ({"inputs": sounds, "language": "elvish"}, "elvish"),
        ({"inputs": sounds, "labels": torch.ones(2, 3, dtype=torch.long)}, "labels"),
        ({}, "input_features must be"),
    ):
        with pytest.raises(ValueError, match=words):
            ours.generate(**wrong)


def test_other_models_are_no_whisper():
    with pytest.raises(ValueError, match="an audio tower and no other; got modalities"):
        MMForSpeechSeq2Seq(MMConfig.preset("mm-tiny"))
    audio = {**whisper_config().to_dict(), "model_type": "whisper"}
    with pytest.raises(ValueError, match="cross-attention"):
        MMForSpeechSeq2Seq(MMConfig(modalities=["audio"], audio_config=audio, fusion_type="merged"))


def test_the_auto_class_loads_it(pair, tmp_path):
    theirs, ours = pair
    ours.save_pretrained(tmp_path)
    again = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path, dtype=torch.float64)
    assert isinstance(again, MMForSpeechSeq2Seq)
    sounds = sounds_of(theirs.config)
    assert torch.equal(again.generate(sounds), theirs.generate(sounds))


@pytest.mark.parametrize("given", [{"language": "en"}, {"return_timestamps": True}, {"prompt_ids": PROMPT}])
def test_whisper_s_arguments_beside_rows_of_ids_are_refused(given, tmp_path):
    lively_whisper().save_pretrained(tmp_path)
    model = convert(tmp_path).model
    sounds, ids = sounds_of(whisper_config(), 2, dtype=torch.float32), torch.tensor([[257], [257]])
    with pytest.raises(ValueError, match=f"{next(iter(given))}.*input_ids"):
        model.generate(input_features=sounds[:, None], input_ids=ids, **given)
    with pytest.raises(ValueError, match="2 clips"):
        model.generate(input_features=torch.stack([sounds, sounds], 1), input_ids=ids)
    one, two = (model(ids, input_features=features).logits for features in (sounds, sounds[:, None]))
    assert torch.equal(one, two)  # the same features, with and without the dimension of the clips
    with pytest.raises(ValueError, match="input_features must be"):
        model(ids, input_features=sounds[0])
