"""The recipe of the tiny Whisper: splits, windows and their texts, longer windows, and what it writes at the end."""

import numpy as np
import pytest
import torch

from mm.conversion_scripts import whisper
from mm.recipes import spoken_captions
from mm.recipes.spoken_captions import RATE, Spoken, recordings, split_of, spoken_words
from mm.recipes.spoken_windows import SpokenWindows
from mm.recipes.tiny_whisper_model import build_model, build_processor, longer
from mm.recipes.tiny_whisper_scores import frequent_words, joined

TEXTS = ["un chat", "une étoile", "la lettre a", "l'eau"]


def spoken(seconds: float, text: str = "un chat") -> Spoken:
    return Spoken(text, np.full(int(seconds * RATE), 9000, np.int16))


@pytest.fixture(scope="module")
def processor():
    return build_processor(TEXTS, seconds=3)


def test_words_are_those_that_are_said():
    assert spoken_words("Un Chat, là !") == "un chat là"
    assert spoken_words("L’appareil-photo (d'Ève).") == "l'appareil-photo d'ève"


def test_no_caption_and_no_sound_is_in_two_splits(tmp_path, monkeypatch):
    import soundfile

    root = tmp_path / "usr/share/tuxpaint/stamps"
    root.mkdir(parents=True)
    sounds = []
    for number, samples in enumerate(np.random.default_rng(0).standard_normal((20, 2000)) / 9):
        soundfile.write(tmp_path / f"{number}.ogg", samples, RATE)
        sounds.append((tmp_path / f"{number}.ogg").read_bytes())
    for number in range(40):  # sounds come twice, and captions more often
        caption = f"Chose {'abcdefghij'[number % 7]} !"
        (root / f"{number}.txt").write_text(f"A thing.\nfr.utf8={caption}\n", encoding="utf-8")
        (root / f"{number}_desc_fr.ogg").write_bytes(sounds[number % 20])
    (root / "80.txt").write_text("fr.utf8=Un dollar, 1 $.\n", encoding="utf-8")
    (root / "80_desc_fr.ogg").write_bytes(sounds[0])
    monkeypatch.setattr(spoken_captions, "debian_directory", lambda *_: tmp_path)
    splits = recordings()
    held = [(split, one) for split, some in splits.items() for one in some]
    assert len({one.samples.tobytes() for _, one in held}) == len(held) == 20
    for text in {one.text for _, one in held}:
        assert len({split for split, one in held if one.text == text}) == 1
    assert all("dollar" not in one.text for _, one in held)
    assert {split_of(str(number)) for number in range(60)} == {"train", "dev", "test"}


def test_a_window_tells_the_times_of_its_clips_and_where_a_cut_one_begins(processor):
    windows = SpokenWindows([spoken(0.6)], [spoken(0.9, "une étoile")], processor, 3, batch_size=2, seed=0)
    first = processor.tokenizer.convert_tokens_to_ids("<|0.00|>")
    with_times = cuts = 0
    for index in range(60):
        item = windows[index]
        assert len(item["sound"]) == 3 * RATE
        ids, quiet = item["ids"][item["opening"] : -1], np.abs(item["sound"]) < 0.05
        times = [(token - first) / 50 for token in ids if token >= first]
        assert times == sorted(times) and item["ids"][-1] == processor.tokenizer.eos_token_id
        with_times, cuts = with_times + bool(times), cuts + len(times) % 2
        for start, end in zip(times[::2], times[1::2], strict=False):
            middle = int((start + end) / 2 * RATE)
            assert not quiet[middle] and (start < 0.05 or quiet[int((start - 0.04) * RATE)])
    assert 20 < with_times < 60 and cuts
    assert np.array_equal(windows[7]["sound"], windows[7]["sound"]) and windows[7]["ids"] == windows[7]["ids"]


def test_a_batch_learns_the_text_and_not_what_opens_it(processor):
    windows = SpokenWindows([spoken(0.6)], [spoken(0.9)], processor, 3, batch_size=2, seed=0)
    batch = windows.batch([windows[0], windows[1], windows[2]])
    assert batch["input_features"].shape == (3, 1, 80, 300)
    learned = batch["labels"] != -100
    assert torch.equal(batch["labels"][learned], batch["input_ids"][learned])
    assert (
        learned.sum(1) == batch["attention_mask"].sum(1) - torch.tensor([windows[i]["opening"] for i in range(3)])
    ).all()
    model = build_model(processor, 3, seed=0)
    assert torch.isfinite(model(**batch).loss)


@torch.no_grad()
def test_longer_windows_keep_every_weight(processor):
    short = build_model(processor, 1, seed=0)
    long = longer(short, 3)
    before, after = short.state_dict(), long.state_dict()
    assert before.keys() == after.keys()
    differ = [name for name, weight in before.items() if not torch.equal(weight, after[name][: len(weight)])]
    assert not differ
    assert long.config.audio_config.max_source_positions == 150
    assert long.generation_config.to_dict() == short.generation_config.to_dict()
    there = whisper.layout(long).config  # it is a Whisper in Transformers, too
    assert (there.max_source_positions, there.decoder_layers) == (150, 2)
    written = long.generate(torch.zeros(1, 80, 300), language="fr", max_new_tokens=4)
    assert written.shape[0] == 1


def test_the_most_frequent_words_and_joined_times():
    assert frequent_words(["un", "un", "un chat", "la porte"]) == "un"
    samples, times = joined([spoken(0.5), spoken(1.0)])
    assert len(samples) == int(2.3 * RATE)
    assert np.allclose(times, [(0, 0.5), (0.9, 1.9)])
