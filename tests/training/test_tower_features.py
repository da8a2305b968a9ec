"""Features of a frozen image tower, kept on disk: the same losses, what is refused, broken files, other pictures."""

import errno
import json
import os
import pickle
import shutil
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import mm
from comparing import close
from mm.training.recipe import make_arguments
from mm.training.run import train
from mm.training.tower_features import tower_fingerprint
from small_trainer import small_trainer

TOWERS = {
    "vit": {}, "vit with a layer below": {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
    "conv": {"vision_config": {"frozen_batch_norm": True}},
    "clip": {"vision_config": {"model_type": "clip_vision_model", "num_channels": 3}},
}  # fmt: skip


@pytest.fixture(scope="module")
def small_processor():
    processor = mm.MMProcessor.from_pretrained("checkpoints/mm-tiny")
    processor.image_processor.size = {"height": 16, "width": 16}
    return processor


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(5):
        Image.effect_noise((20, 18), 60 + number).convert("RGB").save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(5)]


def build(tiny_model, processor, tower="vit", cls=mm.MMForConditionalGeneration, **fields):
    words = {"vocab_size": len(processor.tokenizer), **fields.pop("text_config", {})}
    made = {**TOWERS[tower], "max_images": 2, "text_config": words, **fields}
    model = tiny_model(tower if tower == "conv" else "vit", cls=cls, dtype=torch.float32, **made)
    return model.freeze("vision")


def losses(model, processor, samples, store, **settings):
    found = []
    for features in (None, store):
        batch = mm.MMDataCollator(processor, features=features, **settings)(samples)
        assert ("visual_embeds" in batch) == (features is not None) != ("pixel_values" in batch)
        found.append(model(**batch).loss)
    return found


@pytest.mark.parametrize("tower", TOWERS)
def test_a_caption_has_the_same_loss_by_pictures_and_by_their_features(
    tiny_model, small_processor, pictures, tower, tmp_path
):
    model = build(tiny_model, small_processor, tower)
    one, two = pictures[:2]
    samples = [
        {"image": one, "suffix": "a dog"},
        {"images": [two, one], "suffix": "two"},
        {"image": one, "suffix": ["the dog of before", "and again"]},
        {"image": None, "suffix": "none"},
        {"image": open(two, "rb").read(), "suffix": "bytes"},
        {"image": Image.open(one), "suffix": "an opened one"},
    ]
    samples = [{"images": [], **sample} if "images" in sample else sample for sample in samples]
    store = mm.store_features(model, small_processor, samples, tmp_path)
    assert len(store) == 3  # a picture that was opened goes by its pixels
    plain, stored = losses(model, small_processor, samples, store)
    close(plain, stored)
    plain, stored = losses(model, small_processor, samples[2:3], store)  # a batch without pictures
    close(plain, stored)


def test_vectors_of_the_tower_are_kept_for_heads_that_read_them(tiny_model, small_processor, pictures, tmp_path):
    samples = [{"image": path, "text": f"number {number}"} for number, path in enumerate(pictures)]
    text = {"is_causal": False, "pooler": "mean"}
    fields = {"projection_dim": 12, "text_config": text, "vision_config": {"pooler": "cls"}}
    model = build(tiny_model, small_processor, cls=mm.MMForImageTextRetrieval, **fields)
    store = mm.store_features(model, small_processor, samples, tmp_path)
    plain, stored = losses(model, small_processor, samples, store, return_loss=True)
    close(plain, stored)
    batch = mm.MMDataCollator(small_processor, features=store)(samples)
    batch["visual_pooler_output"][0, 0] = float("nan")
    with pytest.raises(ValueError, match="visual_pooler_output holds NaN"):
        model(**batch)
    labelled = [{**sample, "label": number % 2} for number, sample in enumerate(samples)]
    summed = build(tiny_model, small_processor, cls=mm.MMForSequenceClassification, fusion_type="sum", num_labels=2)
    store = mm.store_features(summed, small_processor, samples, tmp_path)
    plain, stored = losses(summed, small_processor, labelled, store)
    close(plain, stored)


def test_what_changes_from_step_to_step_is_refused(tiny_model, small_processor, pictures, tmp_path):
    samples = [{"image": pictures[0], "suffix": "a dog"}]
    trained = build(tiny_model, small_processor).requires_grad_(True)
    with pytest.raises(ValueError, match="freeze"):
        mm.store_features(trained, small_processor, samples, tmp_path)
    for tower, settings, named in (
        ("vit", {"hidden_dropout": 0.1}, "dropout"),
        ("vit", {"attention_dropout": 0.5}, "dropout"),
        ("conv", {"frozen_batch_norm": False}, "BatchNorm"),
    ):
        model = build(tiny_model, small_processor, tower, vision_config=settings)
        with pytest.raises(ValueError, match=named):
            mm.store_features(model, small_processor, samples, tmp_path)
    store = mm.store_features(build(tiny_model, small_processor), small_processor, samples, tmp_path)
    with pytest.raises(ValueError, match="augment"):
        mm.MMDataCollator(small_processor, features=store, augment=lambda image, rng: image)
    with pytest.raises(ValueError, match="mim"):
        mm.MMDataCollator(small_processor, features=store, mim_ratio=0.5, patch_size=8)


def test_a_killed_writer_leaves_nothing_for_good_and_a_small_disk_is_refused(
    tiny_model, small_processor, pictures, tmp_path, monkeypatch
):
    model, samples = build(tiny_model, small_processor), [{"image": path, "suffix": "a dog"} for path in pictures]
    store = mm.store_features(model, small_processor, samples[:2], tmp_path)
    old, fresh = store.folder / "killed.writing", store.folder / "busy.writing"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    mm.store_features(model, small_processor, samples[:3], tmp_path)
    assert fresh.exists() and not old.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(OSError, match="2 pictures.*free") as fault:
        mm.store_features(model, small_processor, samples, tmp_path)
    assert fault.value.errno == errno.ENOSPC and "feature_cache" not in str(fault.value)


def test_another_tower_or_another_size_of_pictures_has_other_features(tiny_model, small_processor):
    model = build(tiny_model, small_processor)
    known = {tower_fingerprint(model, small_processor), tower_fingerprint(model, small_processor, torch.bfloat16)}
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).view(-1)[0] += 1
    known.add(tower_fingerprint(model, small_processor))
    other = mm.MMProcessor.from_pretrained("checkpoints/mm-tiny")
    known.add(tower_fingerprint(model, other))
    assert len(known) == 4
    other.image_processor.augmentation = {"scale": (0.5, 1.0)}  # a store is used without any
    assert tower_fingerprint(model, other) in known


def test_broken_files_and_pictures_that_changed_are_made_again(tiny_model, small_processor, pictures, tmp_path):
    model = build(tiny_model, small_processor)
    samples = [{"image": path, "suffix": "a dog"} for path in pictures[:3]]
    store = mm.store_features(model, small_processor, samples, tmp_path / "store")
    (path,) = store.folder.iterdir()
    whole, tokens = path.read_bytes(), load_file(path)["tokens"].clone()
    for broken in (whole[:-1], whole[:40], b"", whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]):
        path.write_bytes(broken)
        again = mm.store_features(model, small_processor, samples, tmp_path / "store")
        assert len(again) == 3 and torch.equal(load_file(path)["tokens"], tokens) and not again.broken
    changed = tmp_path / "changed.png"
    Image.new("RGB", (9, 9), "red").save(changed)
    collate = mm.MMDataCollator(small_processor, features=store)
    with pytest.raises(ValueError, match="not in"):
        collate([{"image": str(changed), "suffix": "red"}])
    changed.write_bytes(b"no picture")
    with pytest.raises(mm.MediaDecodeError):
        collate([{"image": str(changed), "suffix": "red"}])
    more = [*samples, {"image": str(changed), "suffix": "red"}, {"image": pictures[3], "suffix": "more"}]
    assert len(mm.store_features(model, small_processor, more, tmp_path / "store")) == 4


def test_a_store_is_of_one_processor_and_a_file_that_breaks_is_named(tiny_model, small_processor, pictures, tmp_path):
    model, samples = build(tiny_model, small_processor), [{"image": pictures[0], "suffix": "a dog"}]
    store = mm.store_features(model, small_processor, samples, tmp_path)
    same, other = mm.MMProcessor.from_pretrained("checkpoints/mm-tiny"), small_processor.image_processor.to_dict()
    same.image_processor.size = {"height": 16, "width": 16}
    mm.MMDataCollator(same, features=store)
    same.image_processor.image_mean = [0.0] * len(other["image_mean"])
    with pytest.raises(ValueError, match="image_mean"):
        mm.MMDataCollator(same, features=store)
    (file,) = store.folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:200])
    again = mm.MMDataCollator(small_processor, features=pickle.loads(pickle.dumps(store)))
    with pytest.raises(OSError, match=file.name):
        again(samples)


WRONG = {
    "no process": ({"processes": (0, 0)}, ValueError, "processes"),
    "a process too many": ({"processes": (3, 2)}, ValueError, "processes"),
    "a name of a dtype": ({"dtype": "bfloat16"}, TypeError, "torch.dtype"),
    "one string": ({"samples": "abc"}, TypeError, "samples"),
    "a generator": ({"samples": iter([])}, TypeError, "samples"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_in_words(tiny_model, small_processor, tmp_path, name):
    given, error, words = WRONG[name]
    given = {"samples": [], **given}
    with pytest.raises(error, match=words):
        mm.store_features(build(tiny_model, small_processor), small_processor, folder=tmp_path, **given)


def test_a_trainer_takes_no_store_of_another_tower(processor, tmp_path):
    trainer = small_trainer(tmp_path / "run", processor)
    trainer.model.freeze("vision")
    samples = trainer.train_dataset
    collator: Any = trainer.data_collator
    collator.features = mm.store_features(trainer.model, processor, samples, tmp_path / "store")
    with torch.no_grad():
        next(trainer.model.model.vision_tower.parameters()).view(-1)[0] += 1
    with pytest.raises(ValueError, match="another image tower"):
        trainer.train()


@pytest.mark.slow
def test_a_recipe_with_a_feature_cache_has_the_losses_of_one_without(settings, tmp_path):
    logs = []
    for number, cache in enumerate((None, "features", "features")):
        more = {} if cache is None else {"feature_cache": str(tmp_path / cache)}
        made = settings(output=str(tmp_path / str(number)), freeze="vision", eval_share=0, max_steps=4, **more)
        said: list[str] = []
        result = train(make_arguments({**made, "dataloader_num_workers": 2 if number == 2 else 0}), said.append)
        logs.append([float(line["loss"]) for line in result.log_history if "loss" in line])
        assert any("image tower does not run" in line for line in said) == (cache is not None)
    plain, first, again = logs
    assert len(plain) == 4 and first == again
    close(torch.tensor(plain), torch.tensor(first))


def test_a_recipe_says_what_a_feature_cache_cannot_do_and_how_much_it_will_hold(settings, tmp_path):
    folder = {"feature_cache": str(tmp_path / "features")}
    with pytest.raises(ValueError, match="freeze"):
        train(make_arguments(settings(**folder)), print)
    said: list[str] = []
    train(make_arguments(settings(dry_run=True, freeze="vision", **folder)), said.append)
    assert any("features: 10 pictures" in line and "KiB" in line for line in said)
    assert not (tmp_path / "features").exists()
    saved = mm.MMProcessor.from_pretrained(settings()["model"])
    saved.image_processor.augmentation = {"scale": (0.5, 1.0)}
    saved.save_pretrained(tmp_path / "augments")
    augmented = {"processor": str(tmp_path / "augments"), "augment": "saved", "freeze": "vision"}
    with pytest.raises(ValueError, match="augment"):
        train(make_arguments(settings(**folder, **augmented)), print)


@pytest.mark.slow
def test_a_training_goes_on_with_stored_features_as_if_it_had_not_ended(processor, tmp_path):
    def trained(name, steps, resume=None):
        trainer = small_trainer(tmp_path / name, processor, max_steps=4, **steps)
        trainer.model.freeze("vision")
        store = mm.store_features(trainer.model, processor, trainer.train_dataset, tmp_path / "store")
        collator: Any = trainer.data_collator
        collator.features = store
        trainer.train(resume)
        return trainer.model.state_dict()

    whole = trained("whole", {})
    trained("part", {})
    (tmp_path / "part" / "checkpoint-4").rename(tmp_path / "gone")
    (tmp_path / "part" / "checkpoint-3").rename(tmp_path / "gone-too")
    state = json.loads((tmp_path / "part" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    for file in (tmp_path / "store").rglob("*.safetensors"):
        file.unlink()
    resumed = trained("part", {}, True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
