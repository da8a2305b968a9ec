"""The recipe of mm-tiny-spoken: what is heard and held out, losses over all things, ranks, and what is saved."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from mm import MMForImageTextRetrieval
from mm.recipes import spoken_names, spoken_names_data, spoken_names_scores
from mm.recipes.spoken_names import Clock, build_model, build_processor, package, train
from mm.recipes.spoken_names_data import RATE, Heard, Seen, Things, changed, is_unheard
from mm.recipes.spoken_names_scores import NEAREST, Trial, by_caption_length, by_length, ranks, trials
from mm.recipes.stamps import Stamp


def tone(pitch: float, seconds: float = 0.6) -> np.ndarray:
    return (np.sin(np.arange(int(seconds * RATE)) * pitch) * 9000).astype(np.int16)


@pytest.fixture
def things() -> Things:
    made = Things()
    for number, words in enumerate(("cat", "dog", "red apple")):
        thing = made.of(words)
        made.pictures += [thing, thing]
        made.texts += [(thing, words), (thing, f"un {words}")]
        made.recordings.append((thing, tone(0.05 + 0.1 * number)))
        made.said.append((thing, tone(0.06 + 0.1 * number)))
    return made


@pytest.fixture
def processor():
    return build_processor(["cat", "dog", "red apple"])


@pytest.fixture
def model(processor):
    """With a small tower in place of EfficientNet-Lite0."""
    block = {"block": "plain", "kernel_size": 3, "stride": 4, "channels": 8, "depth": 1}
    stem = {"channels": 8, "kernel_size": 3, "stride": 8}
    vision = {"model_type": "mm_conv", "image_size": 128, "stem": stem, "stages": [block], "pooler": "mean"}
    return build_model(processor, vision)


def test_words_are_one_thing():
    things = Things()
    assert [things.of(words) for words in ("cat", "dog", "cat")] == [0, 1, 0] and things.words == ["cat", "dog"]


def test_a_batch_is_a_function_of_its_number(things, processor):
    for batches in (
        Heard(things, processor.feature_extractor, 4, seed=0),
        Seen(things, processor.tokenizer, 4, seed=0, views=2),
    ):
        one, again, other = batches[3], batches[3], batches[4]
        assert one.keys() == again.keys()
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert any(one[name].shape != other[name].shape or not torch.equal(one[name], other[name]) for name in one)


def test_a_changed_sound_is_the_same_word_at_another_speed():
    sound = tone(0.1)
    lengths = {len(changed(sound, np.random.default_rng(seed))) for seed in range(8)}
    assert len(lengths) > 4 and all(0.7 < length / len(sound) < 1.6 for length in lengths)
    assert len(changed(tone(0.1, 9), np.random.default_rng(0))) <= 4 * RATE + 1


def test_both_phases_lower_their_loss_and_only_what_they_train_changes(things, processor, model):
    torch.manual_seed(0)
    width = spoken_names.WIDTH
    meaning = torch.nn.functional.normalize(torch.randn(3, width), dim=-1)
    model.learns_from(torch.randn(2, 6, model.config.pooled_widths["vision"]), meaning)
    seeing = (model.model.language_model, model.itc_head.vision, model.itc_head.text)
    hearing = (model.model.audio_tower, model.model.audio_resampler, model.itc_head.audio)
    for batches, parts, others in (
        (Seen(things, processor.tokenizer, 12, 0, 2), seeing, hearing),
        (Heard(things, processor.feature_extractor, 6, 0), hearing, seeing),
    ):
        spoken_names._train_only(model, *parts)
        model.train()
        before = [[p.detach().clone() for p in part.parameters()] for part in others]
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        losses = []
        for number in range(25):
            optimizer.zero_grad()
            loss = model(**batches[number])["loss"]
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
        after = [[p.detach() for p in part.parameters()] for part in others]
        assert all(torch.equal(*pair) for one, other in zip(before, after, strict=True)
                   for pair in zip(one, other, strict=True))  # fmt: skip


def test_a_phase_runs_in_trainer_and_a_finished_one_is_not_run_again(things, processor, model, tmp_path):
    width = spoken_names.WIDTH
    meaning = torch.nn.functional.normalize(torch.randn(3, width), dim=-1)
    model.learns_from(torch.randn(2, 6, model.config.pooled_widths["vision"]), meaning)
    clock = Clock(tmp_path / "log.jsonl", Trial([], []), processor, every=200)
    hearing = (model.model.audio_tower, model.model.audio_resampler, model.itc_head.audio)
    spoken_names._train_only(model, *hearing)
    batches = Heard(things, processor.feature_extractor, 4, seed=0)
    before = model.itc_head.audio.weight.detach().clone()
    train(model, batches, tmp_path / "hearing", 2, 1e-3, False, clock)
    after = model.itc_head.audio.weight.detach().clone()
    assert not torch.equal(before, after) and (tmp_path / "hearing" / "checkpoint-2").is_dir()
    train(model, batches, tmp_path / "hearing", 2, 1e-3, True, clock)
    assert torch.equal(model.itc_head.audio.weight, after)


def test_the_folder_that_ships_hears_sees_and_reads(model, processor, tmp_path, monkeypatch):
    model.config.architectures = None
    model.eval().save_pretrained(tmp_path / "run")
    kept = MMForImageTextRetrieval.from_pretrained(tmp_path / "run")
    size = package(kept, processor, tmp_path / "ships")
    assert 0 < size < spoken_names.LIMIT
    loaded = MMForImageTextRetrieval.from_pretrained(tmp_path / "ships").eval()
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    read = AutoProcessor.from_pretrained(tmp_path / "ships")
    items = [{"audio": {"array": tone(0.1, 3).astype(np.float32) / 32768, "sampling_rate": RATE}},
             Image.new("RGB", (40, 30), "red"), "a cat"]  # fmt: skip
    embeds = loaded.encode(items, processor=read)
    assert embeds.shape == (3, spoken_names.WIDTH) and torch.allclose(embeds.norm(dim=1), torch.ones(3), atol=1e-5)
    monkeypatch.setattr(spoken_names, "LIMIT", 10)
    with pytest.raises(ValueError, match="more than 10"):
        package(loaded, read, tmp_path / "ships")


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
    lines = [(language, letters, letters / 8) for language in spoken_names_data.SAID for letters in (4, 8, 24)]
    assert by_caption_length(trial, lines).argmax(1).tolist() == [1]
