"""Words are placed in time by the cheapest path through their maps."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mm
from mm.explaining.timestamps import cheapest_path, median_filtered, standardised, token_times, word_timestamps


def every_path(tokens: int, moments: int, start: tuple[int, int] = (0, 0)):
    """All ways from `start` to the last cell."""
    if start == (tokens - 1, moments - 1):
        yield [start]
    for step in ((1, 1), (1, 0), (0, 1)):
        cell = start[0] + step[0], start[1] + step[1]
        if cell[0] < tokens and cell[1] < moments:
            yield from ([start, *rest] for rest in every_path(tokens, moments, cell))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (3, 5), (5, 3), (4, 4)])
def test_no_path_is_cheaper(shape):
    generator = np.random.default_rng(0)
    paths = list(every_path(*shape))
    for _ in range(5):
        cost = generator.normal(size=shape)
        found = list(zip(*(one.tolist() for one in cheapest_path(cost)), strict=True))
        assert found in paths
        assert np.isclose(sum(cost[cell] for cell in found), min(sum(cost[cell] for cell in path) for path in paths))


def spoken(spans: list[tuple[int, int]], moments: int, noise: float = 0.0) -> np.ndarray:
    """Each token reads the moments of its span."""
    weights = (
        np.random.default_rng(1).uniform(0, noise, (len(spans), moments)) if noise else np.zeros((len(spans), moments))
    )
    for token, (start, end) in enumerate(spans):
        weights[token, start:end] += 1
    return weights / weights.sum(1, keepdims=True)


SPANS = [(10, 22), (22, 41), (41, 50), (50, 80)]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_words_are_found_where_they_were_said_and_silence_is_left_out(noise):
    weights = spoken(SPANS, 100, noise)
    times = token_times(weights, 0.02, trim_ends=True) / 0.02
    assert np.abs(times - np.array(SPANS)).max() <= (0 if not noise else 3)
    whole = token_times(weights, 0.02) / 0.02
    assert (whole[0, 0], whole[-1, 1]) == (0, 100)
    assert np.abs(whole[1:, 0] - np.array(SPANS)[1:, 0]).max() <= 3


def test_maps_of_several_heads_are_used_together():
    """No head knows all the words; what every token reads (a loud moment) says nothing."""
    whole = spoken(SPANS, 100)
    heads = np.stack([whole * (np.arange(4) % 2 == parity)[:, None] for parity in (0, 1)]) + 0.01
    heads[:, :, 5] += 3
    times = token_times(heads, 1.0, trim_ends=True)
    assert np.abs(times - np.array(SPANS)).max() <= 1


def test_one_word_is_found_alone():
    assert token_times(spoken([(30, 44)], 60), 1.0, trim_ends=True).tolist() == [[30, 44]]


def test_words_follow_each_other_and_stay_within_the_sound():
    weights = np.random.default_rng(2).uniform(size=(3, 30, 20))  # more tokens than moments
    for trim_ends in (False, True):
        times = token_times(weights, 0.5, trim_ends=trim_ends)
        assert (times[:, 1] >= times[:, 0]).all()
        assert np.array_equal(times[1:, 0], times[:-1, 1])
        assert times.min() >= 0 and times.max() <= 10


def test_standardised_maps_and_medians():
    values = standardised(np.random.default_rng(3).uniform(size=(2, 6, 9)))
    assert np.allclose(values.mean(1), 0) and np.allclose(values.std(1), 1)
    assert not standardised(np.full((3, 4), 0.25)).any()
    peak = np.zeros((1, 9))
    peak[0, 4] = 1
    assert not median_filtered(peak, 3).any()
    assert np.array_equal(median_filtered(peak, 1), peak)
    assert median_filtered(np.arange(4.0)[None], 99).shape == (1, 4)


def test_words_of_an_explanation():
    sound = SimpleNamespace(kind="audio", number=1, weights=spoken(SPANS, 100))
    picture = SimpleNamespace(kind="image", number=0, weights=np.ones((4, 2, 2)))
    explanation = SimpleNamespace(words=["a", "b", "c", "d"], items=[picture, sound])
    times = word_timestamps(explanation, 0.02, number=1)
    assert [one.word for one in times] == explanation.words
    assert np.allclose([(one.start, one.end) for one in times], np.array(SPANS) * 0.02)
    with pytest.raises(ValueError, match=r"no sound 0.*\[1\]"):
        word_timestamps(explanation, 0.02)
    assert word_timestamps(SimpleNamespace(words=[], items=[sound]), 0.02, number=1) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"weights": np.zeros((0, 4))}, "one token"),
        ({"weights": np.array([[np.nan, 1.0]])}, "finite"),
        ({"weights": np.zeros(3)}, "shape"),
        ({"seconds_per_moment": 0}, "positive"),
        ({"median_width": 4}, "odd"),
    ],
)
def test_other_input_is_an_error(change, word):
    given = {"weights": np.ones((2, 5)), "seconds_per_moment": 0.02}
    with pytest.raises(ValueError, match=word):
        token_times(**(given | change))


WORDS, PLACES, PROMPT = 7, 40, 4


@torch.no_grad()
def planted(folder):
    """A Whisper that reads the j-th tenth of a second with the query that writes its j-th word."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    ends = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    sizes |= {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "num_mel_bins": 8, "vocab_size": 40}
    config = WhisperConfig(
        **ends, **sizes, max_source_positions=PLACES, max_target_positions=32, begin_suppress_tokens=None,
        tie_word_embeddings=False, median_filter_width=1,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    place, noise = torch.eye(32), torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        weight.fill_(float(name.endswith("norm.weight")))
    model.model.encoder.embed_positions.weight.copy_(place[torch.arange(PLACES) // 5])
    model.model.decoder.embed_positions.weight.copy_(place)
    attention = model.model.decoder.layers[0].encoder_attn
    attention.k_proj.weight.copy_(place)
    attention.q_proj.weight.copy_(place.roll(1 - PROMPT, 0) + 0.02 * torch.randn(32, 32, generator=noise))
    model.generation_config = GenerationConfig(
        **ends, is_multilingual=True, lang_to_id={"<|en|>": 2}, task_to_id={"transcribe": 3}, max_length=40,
        no_timestamps_token_id=39, alignment_heads=[[0, 0]], suppress_tokens=[0, 1, 2, 3, 4], return_timestamps=False,
    )  # fmt: skip
    model.save_pretrained(folder)
    return mm.convert(folder).model


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 2])
def test_words_of_a_sound_are_found_where_the_model_is_known_to_read_them(tmp_path, beams):
    """And they are generate()'s own times of tokens, which Transformers takes from the query after each token."""
    model, sound = planted(tmp_path), torch.zeros(1, 8, 2 * PLACES)
    settings = {"language": "en", "task": "transcribe", "max_new_tokens": WORDS, "num_beams": beams}
    written = model.generate(sound, return_token_timestamps=True, **settings)
    told = written["token_timestamps"][0].tolist()[-WORDS:]
    ids = torch.cat([torch.tensor([[1, 2, 3, 39]]), written["sequences"][:, -WORDS:]], 1)
    (explained,) = model.explain({"input_features": sound}, ids, prompt_length=PROMPT, layers=0, heads=0)
    times = word_timestamps(explained, 0.02, median_width=1, trim_ends=False)
    assert [one.start for one in times] == pytest.approx([0.1 * word for word in range(WORDS)])
    later = token_times(explained.items[0].weights[1:], 0.02, median_width=1)[:, 0]
    assert told == pytest.approx([*later, later[-1]], abs=1e-6)
