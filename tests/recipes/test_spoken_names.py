"""The recipe of mm-tiny-spoken: what is heard and held out, what texts and sounds learn to find, and what is saved."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from mm import MMForImageTextRetrieval, MMForSpeechSeq2Seq
from mm.recipes import spoken_names, spoken_names_scores
from mm.recipes.spoken_captions import Spoken
from mm.recipes.spoken_names import Finder, alike, build_finder, build_finding, build_hearer, build_hearing, package
from mm.recipes.spoken_names_data import RATE, SAID, Read, Things, Told, is_spoken, is_unheard
from mm.recipes.spoken_names_scores import NEAREST, Trial, by_caption_length, by_length, heard, ranks, trials, written
from mm.recipes.spoken_windows import SpokenWindows, changed
from mm.recipes.stamps import Stamp
from mm.recipes.tiny_whisper import Clock

WIDTH = 16  # of the space


def writer_of(folder) -> list[str]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]


def tone(pitch: float, seconds: float = 0.6) -> np.ndarray:
    return (np.sin(np.arange(int(seconds * RATE)) * pitch) * 9000).astype(np.int16)


@pytest.fixture(scope="module")
def sounds() -> tuple[list[Spoken], list[Spoken]]:
    texts = {"fr": "un chat", "es": "un perro", "ru": "кот"}
    read = [Spoken(text, tone(0.05 + 0.1 * n), of) for n, (of, text) in enumerate(texts.items())]
    return read, [Spoken(one.text, tone(0.06 + 0.1 * n, 0.9), one.language) for n, one in enumerate(read)]


@pytest.fixture(scope="module")
def hearing(sounds):
    return build_hearing([one.text for one in sounds[0]], 3, SAID, pieces=8)


@pytest.fixture
def things() -> Things:
    made = Things()
    for words, others in (("cat", ["un chat", "кот"]), ("dog", ["un perro"]), ("red apple", ["una manzana", "!"])):
        thing = made.of(words)
        made.pictures += [thing, thing]
        for text in (words, *others):
            made.called(thing, text)
    return made


@pytest.fixture
def model(sounds, hearing, things) -> Finder:
    processor = build_finding([text for _, text in things.texts], hearing)
    made = build_finder(processor, build_hearer(hearing, 3, 0, SAID).config.audio_config, WIDTH)
    torch.manual_seed(0)
    made.learns_from(*torch.nn.functional.normalize(torch.randn(2, 3, WIDTH), dim=-1))
    made.processor = processor  # pyright: ignore[reportAttributeAccessIssue]
    return made


def test_words_are_one_thing_and_texts_stand_as_sounds_tell_them(things):
    assert [things.of(words) for words in ("cat", "dog", "cat")] == [0, 1, 0] and len(things.words) == 3
    things.called(1, "¡Un Perro!")
    assert things.texts[-1] == (1, "un perro") and (2, "") not in things.texts
    assert is_spoken("Un chat.") and not is_spoken("1 $") and not is_spoken("...")


def test_a_window_has_one_language_which_is_learned(sounds, hearing):
    for seconds, times in ((2, 0.0), (3, 0.5)):
        windows = SpokenWindows(*sounds, hearing, seconds, 8, seed=0, times=times)
        items = [windows[index] for index in range(24)]
        batch = windows.batch(items)
        marks = {f"<|{one.language}|>": one.text for one in sounds[0]}
        seen = set()
        for item, labels in zip(items, batch["labels"], strict=True):
            mark = hearing.tokenizer.convert_ids_to_tokens(item["ids"][1])
            told = hearing.tokenizer.decode(item["ids"][3:], skip_special_tokens=True).strip()
            assert set(told.split()) == set(marks[mark].split()) and labels[1] == item["ids"][1] and labels[0] == -100
            seen.add(mark)
        assert seen == set(marks)
    model = build_hearer(hearing, 2, 0, SAID)
    assert set(model.generation_config.lang_to_id) == set(marks)
    found = model.detect_language(windows.batch(items[:4])["input_features"][:, 0, :, :200])
    assert len(found) == 4 and set(found) <= set(marks)


def test_a_batch_is_a_function_of_its_number(things, model, sounds, hearing):
    texts = sorted({one.text for one in sounds[0]})
    for batches in (
        Read(things, model.processor.tokenizer, 4, seed=0),
        Told(*sounds, texts, hearing.feature_extractor, 4, seed=0),
    ):
        one, again, other = batches[3], batches[3], batches[4]
        assert one.keys() == again.keys()
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert any(one[name].shape != other[name].shape or not torch.equal(one[name], other[name]) for name in one)


def test_a_changed_sound_is_the_same_word_at_another_speed():
    sound = tone(0.1)
    lengths = {len(changed(sound, np.random.default_rng(seed))) for seed in range(8)}
    assert len(lengths) > 4 and all(0.7 < length / len(sound) < 1.6 for length in lengths)


def test_a_sound_that_finds_what_its_text_does_is_alike():
    torch.manual_seed(0)
    told, table = torch.nn.functional.normalize(torch.randn(2, 5, WIDTH), dim=-1)
    assert alike(told, told, table) == pytest.approx(0, abs=1e-6) and alike(told.flip(0), told, table) > 0.5


def test_texts_then_sounds_learn_and_only_what_is_to_learn_changes(things, model, sounds, hearing, tmp_path):
    clock = Clock(tmp_path / "log.jsonl")
    texts = sorted({one.text for one in sounds[0]})
    reading = ("language_model", "itc_head.text", "itc_head.logit_scale")
    listening = ("audio_tower", "audio_resampler", "itc_head.audio")
    for stage, parts, batches in (
        ("reading", reading, Read(things, model.processor.tokenizer, 12, 0)),
        ("finding", listening, Told(*sounds, texts, hearing.feature_extractor, 6, 0)),
    ):
        model.learns_only(*parts)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        with torch.no_grad():
            first = float(model.eval()(**batches[0])["loss"])
        spoken_names.train(model, batches, tmp_path / stage, 12, False, clock)
        with torch.no_grad():
            assert float(model.eval()(**batches[0])["loss"]) < 0.9 * first
        moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
        assert moved and all(any(f"{part}." in f"{name}." for part in parts) for name in moved)
        kept = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        spoken_names.train(model, batches, tmp_path / stage, 12, True, clock)  # has ended: not one step more
        assert all(torch.equal(weight, kept[name]) for name, weight in model.named_parameters())
        model.__dict__["texts"] = spoken_names.read(model, model.processor, texts)


def test_the_folder_that_ships_writes_hears_and_reads(model, hearing, tmp_path, monkeypatch):
    hearer = build_hearer(hearing, 3, 0, SAID)
    size = package((hearer, hearing, tmp_path / "ships"), (model, model.processor, tmp_path / "ships" / "finder"))
    assert 0 < size < spoken_names.LIMIT
    assert writer_of(tmp_path / "ships") == ["MMForSpeechSeq2Seq"]
    assert writer_of(tmp_path / "ships" / "finder") == ["MMForImageTextRetrieval"]
    writer = MMForSpeechSeq2Seq.from_pretrained(tmp_path / "ships").eval()
    finder = MMForImageTextRetrieval.from_pretrained(tmp_path / "ships", subfolder="finder").eval()
    assert {parameter.dtype for one in (writer, finder) for parameter in one.parameters()} == {torch.float32}
    read = AutoProcessor.from_pretrained(tmp_path / "ships", subfolder="finder")
    clips = [tone(0.1, 1), tone(0.2, 2.5), tone(0.3, 4)]  # the last is longer than a window
    embeds = heard(finder, read, clips)
    assert embeds.shape == (3, WIDTH) and torch.allclose(embeds.norm(dim=1), torch.ones(3), atol=1e-5)
    own = {"audio": {"array": clips[0].astype(np.float32) / 32768, "sampling_rate": RATE}}
    assert torch.allclose(finder.encode([own, "un chat"], processor=read)[0], embeds[0], atol=1e-5)
    told = written(writer, AutoProcessor.from_pretrained(tmp_path / "ships"), clips)
    assert len(told) == 3 and all(of in SAID and isinstance(text, str) for of, text in told)
    monkeypatch.setattr(spoken_names, "LIMIT", 10)
    with pytest.raises(ValueError, match="more than 10"):
        package((writer, hearing, tmp_path / "again"))


# -- what is measured -------------------------------------------------------------------------------------------------


def test_ranks_count_better_candidates_and_half_of_the_ties():
    scores = np.array([[0.9, 0.5, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2], [0.1, 0.2, 0.9, 0.3]])
    assert ranks(scores, [[0], [3], [0, 1]]).tolist() == [0, 2, 2]


def stamp(name: str, fold: int, folder, sound: bytes, caption: str) -> Stamp:
    file = folder / f"{name}.ogg"
    file.write_bytes(sound)
    return Stamp(name, folder / "x.png", {"en": name, "fr": caption}, {"fr": file}, fold)


def test_what_training_heard_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(spoken_names_scores, "samples_of", lambda file: np.zeros(16000, np.int16))
    rows = [
        stamp("cat", 9, tmp_path, b"cat", "un chat"),
        stamp("cow", 3, tmp_path, b"cow", "une vache"),  # fr of fold 3 is not heard
        stamp("new", 0, tmp_path, b"new", "un oiseau"),
        stamp("same sound", 1, tmp_path, b"cat", "une chose"),
        stamp("same text", 1, tmp_path, b"other", "Un chat."),
        stamp("twice", 0, tmp_path, b"new", "un oiseau"),
        stamp("dev", 2, tmp_path, b"dev", "dev"),
    ]
    assert is_unheard(rows[1], "fr") and not is_unheard(rows[1], "es") and not is_unheard(rows[0], "fr")
    found = trials(rows)
    told = {name: [clip[0].name for clip in trial.clips] for name, trial in found.items()}
    assert told == {"dev": ["dev"], "new names": ["new"], "known names": ["cow"]}
    assert [one.name for one in found["new names"].shown] == ["new", "same sound", "same text", "twice"]


def test_baselines_know_the_length_of_a_sound_alone(tmp_path):
    short, long = (Stamp(name, tmp_path, {"en": name, "fr": name * 3}, {}, 0) for name in ("ab", "abcdefgh"))
    trial = Trial([short, long], [(long, "fr", np.zeros(3 * RATE, np.int16), [1])])
    one, other = torch.eye(2)
    known = [("fr", 0.5, one)] * NEAREST + [("fr", 3.1, other)] * NEAREST + [("es", 3.0, one)] * NEAREST
    assert by_length(trial, torch.eye(2), known).argmax(1).tolist() == [1]
    lines = [(language, letters, letters / 8) for language in SAID for letters in (4, 8, 24)]
    assert by_caption_length(trial, lines).argmax(1).tolist() == [1]
