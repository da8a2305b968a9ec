"""The recipe of the tiny Whisper: splits, windows and their texts, longer windows, and what it writes at the end."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from torch import nn
from transformers import TrainingArguments

from mm.conversion_scripts import whisper
from mm.recipes import spoken_captions
from mm.recipes.spoken_captions import RATE, Spoken, recordings, split_of, spoken_words
from mm.recipes.spoken_windows import SpokenWindows
from mm.recipes.tiny_whisper import Clock, Listening, train
from mm.recipes.tiny_whisper_model import WIDTH, build_model, build_processor, longer
from mm.recipes.tiny_whisper_picture import cues_of, draw
from mm.recipes.tiny_whisper_scores import Stretch, frequent_words, joined

TEXTS = ["un gato", "una montaña", "la letra a", "el árbol"]


def spoken(seconds: float, text: str = "un gato") -> Spoken:
    return Spoken(text, np.full(int(seconds * RATE), 9000, np.int16))


@pytest.fixture(scope="module")
def processor():
    return build_processor(TEXTS, seconds=3)


def test_words_are_those_that_are_said():
    assert spoken_words("¡Un Gato, allí!") == "un gato allí"
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
        (root / f"{number}.txt").write_text(f"A thing.\nes.utf8={caption}\n", encoding="utf-8")
        (root / f"{number}_desc_es.ogg").write_bytes(sounds[number % 20])
    (root / "80.txt").write_text("es.utf8=Un dollar, 1 $.\n", encoding="utf-8")
    (root / "80_desc_es.ogg").write_bytes(sounds[0])
    monkeypatch.setattr(spoken_captions, "debian_directory", lambda *_: tmp_path)
    splits = recordings()
    held = [(split, one) for split, some in splits.items() for one in some]
    assert len({one.samples.tobytes() for _, one in held}) == len(held) == 20
    for text in {one.text for _, one in held}:
        assert len({split for split, one in held if one.text == text}) == 1
    assert all("dollar" not in one.text for _, one in held)
    assert {split_of(str(number)) for number in range(60)} == {"train", "dev", "test"}


def test_a_window_tells_the_times_of_its_clips_and_where_a_cut_one_begins(processor):
    windows = SpokenWindows([spoken(0.6)], [spoken(0.9, "una montaña")], processor, 3, batch_size=2, seed=0)
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


def test_the_encoder_learns_to_spell_and_the_layer_for_it_is_not_kept(processor, tmp_path):
    windows = SpokenWindows([spoken(0.6)], [spoken(0.9)], processor, 2, batch_size=2, seed=0)
    model = build_model(processor, 2, seed=0)
    model.spells = nn.Linear(WIDTH, processor.tokenizer.eos_token_id + 1)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    train(model, windows, tmp_path, 2, 1e-3, False, Clock(tmp_path / "log.jsonl"))
    assert all(not torch.equal(weight, before[name]) for name, weight in model.spells.named_parameters("spells"))
    batch = windows.batch([windows[0], windows[1]])
    teacher = Listening(model=model, args=TrainingArguments(str(tmp_path), report_to="none", use_cpu=True))
    model.eval()
    written = model(**batch).loss
    whole = teacher.compute_loss(model, batch)
    model.spells.weight.data.zero_()
    model.spells.bias.data.fill_(-30)
    model.spells.bias.data[-1] = 30  # hears nothing at any time
    deaf = teacher.compute_loss(model, batch)
    assert written < whole and written < deaf and torch.isfinite(deaf)
    whole.backward()
    assert model.model.audio_tower.conv1.weight.grad is not None
    del model.spells
    assert longer(model, 3)


def test_what_is_hidden_of_a_window_is_its_mean(processor):
    windows = SpokenWindows([spoken(0.6)], [spoken(0.9)], processor, 2, batch_size=2, seed=0)
    item = next(item for item in map(windows.__getitem__, range(50)) if all(b - a > 4 for a, b in item["hidden"]))
    open_ = windows.batch([{**item, "hidden": [(0, 0), (0, 0)]}])["input_features"][0, 0]
    made = windows.batch([item])["input_features"][0, 0]
    (low, high), (start, end) = item["hidden"]
    hidden = torch.zeros_like(made, dtype=torch.bool)
    hidden[low:high], hidden[:, start:end] = True, True
    assert torch.equal(made[~hidden], open_[~hidden]) and made[low:high].std() < 1e-6
    assert made[:, start:end].std() < 1e-6 < open_[low:high].std()


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
    written = long.generate(torch.zeros(1, 80, 300), language="es", max_new_tokens=4)
    assert written.shape[0] == 1


def test_the_most_frequent_words_and_joined_times():
    assert frequent_words(["un", "un", "un gato", "la puerta"]) == "un"
    samples, times = joined([spoken(0.5), spoken(1.0)])
    assert len(samples) == int(2.3 * RATE)
    assert np.allclose(times, [(0, 0.5), (0.9, 1.9)])


def test_a_picture_of_an_srt_over_its_sound(tmp_path):
    cues = cues_of("1\n00:00:00,500 --> 00:00:01,250\nun gato\n\n2\n01:00:02,000 --> 01:00:03,000\nla letra a\n\n")
    assert cues == [Stretch(0.5, 1.25, "un gato"), Stretch(3602.0, 3603.0, "la letra a")]
    samples, times = joined([spoken(0.5), spoken(1.0)])
    true = [Stretch(*place, "un gato") for place in times]
    for number, words in enumerate(([], [Stretch(0.1, 0.4, "un")])):
        draw(samples, true, cues[:1], words, tmp_path / f"{number}.png")
    empty, told = (Image.open(tmp_path / f"{number}.png").convert("RGB") for number in range(2))
    assert empty.size == told.size == (1200, 340) and ImageChops.difference(empty, told).getbbox() is not None
