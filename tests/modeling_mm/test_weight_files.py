"""Files of weights: a save replaces what stood there, two sets are refused by name, and broken files say which."""

# Fixtures build models whose types pyright cannot follow.

import json
import os
import random
import struct
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, Trainer, TrainingArguments

import mm
from mm import MMForConditionalGeneration

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDED = {"max_shard_size": "40KB"}
OTHER = {"initializer_range": 0.2}  # as many weights, other numbers


@pytest.fixture(scope="module")
def old_and_new(tiny_model):
    return tiny_model(dtype=torch.float32), tiny_model(dtype=torch.float32, **OTHER)


def same(one, other) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


# ---- a save replaces ------------------------------------------------------------------------------------------------

LAYOUTS = {"one": {}, "shards": SHARDED, "larger shards": {"max_shard_size": "90KB"}}


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
def test_what_was_saved_last_loads_and_nothing_else_is_left(old_and_new, tmp_path, first, second, variant):
    old, new = old_and_new
    assert not same(old, new)
    old.save_pretrained(tmp_path, variant=variant, **LAYOUTS[first])
    new.save_pretrained(tmp_path, variant=variant, **LAYOUTS[second])
    assert same(MMForConditionalGeneration.from_pretrained(tmp_path, variant=variant), new)
    new.save_pretrained(tmp_path / "alone", variant=variant, **LAYOUTS[second])
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left == {path.name for path in (tmp_path / "alone").iterdir()}


def test_export_for_hub_replaces_them_too(old_and_new, tmp_path):
    old, new = old_and_new
    mm.export_for_hub(old, None, tmp_path)
    mm.export_for_hub(new, None, tmp_path, max_shard_size="40KB")
    assert same(MMForConditionalGeneration.from_pretrained(tmp_path), new)


def test_pickles_of_an_earlier_save_go_and_what_trainers_write_stays(old_and_new, tmp_path):
    old, new = old_and_new
    kept = [
        "training_args.bin",
        "optimizer.pt",
        "pytorch_model_fsdp.bin",
        "model.fp16.safetensors",
        "my model.safetensors",
    ]
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", *kept):
        (tmp_path / name).write_bytes(b"old")
    new.save_pretrained(tmp_path)
    assert {name for name in os.listdir(tmp_path) if "pytorch_model" in name} == {"pytorch_model_fsdp.bin"}
    assert set(kept) < set(os.listdir(tmp_path))
    with pytest.raises(OSError, match="no file named"):
        MMForConditionalGeneration.from_pretrained(tmp_path, use_safetensors=False)


def adapter(model, folder: Path) -> None:
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)


def test_a_whole_model_replaces_an_adapter_that_would_be_laid_over_it(tiny_model, old_and_new, tmp_path):
    base = tiny_model(dtype=torch.float32)
    base.save_pretrained(tmp_path / "base")
    adapter(MMForConditionalGeneration.from_pretrained(tmp_path / "base"), tmp_path / "out")
    old_and_new[1].save_pretrained(tmp_path / "out")
    assert same(MMForConditionalGeneration.from_pretrained(tmp_path / "out"), old_and_new[1])


def test_an_adapter_beside_another_whole_model_is_refused_and_over_its_own_base_is_not(tiny_model, tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "base")
    tiny_model(dtype=torch.float32, **OTHER).save_pretrained(tmp_path / "other")
    model = MMForConditionalGeneration.from_pretrained(tmp_path / "base")
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with pytest.raises(ValueError, match="(?s)other.*holds a whole model.*folder of its own"):
        model.save_pretrained(tmp_path / "other")
    model.save_pretrained(tmp_path / "base")
    assert MMForConditionalGeneration.from_pretrained(tmp_path / "base")._hf_peft_config_loaded
    adapter(MMForConditionalGeneration.from_pretrained(tmp_path / "base", adapter_kwargs=None), tmp_path / "other")
    for loader in (MMForConditionalGeneration, AutoModelForImageTextToText):
        with pytest.raises(ValueError, match="holds a whole model and an adapter of another one"):
            loader.from_pretrained(tmp_path / "other")


def test_saving_to_a_file_raises(old_and_new, tmp_path):
    place = tmp_path / "weights"
    place.write_text("mine")
    with pytest.raises(NotADirectoryError, match="weights' is a file; a model is saved to a folder"):
        old_and_new[0].save_pretrained(place)
    assert place.read_text() == "mine"


@pytest.mark.slow
def test_checkpoints_of_trainer_stay_within_their_limit_and_resume(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32)
    data = [{"input_ids": torch.tensor([1, 5, 6]), "pixel_values": torch.randn(3, 16, 16)} for _ in range(8)]
    data = [{**sample, "labels": sample["input_ids"]} for sample in data]

    def trainer(steps):
        arguments = TrainingArguments(
            tmp_path, max_steps=steps, save_steps=1, save_total_limit=2, per_device_train_batch_size=2, use_cpu=True,
            report_to="none", disable_tqdm=True,
        )  # fmt: skip
        return Trainer(model=model, args=arguments, train_dataset=data)

    trainer(3).train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    assert trainer(4).train(resume_from_checkpoint=True).global_step == 4
    assert same(MMForConditionalGeneration.from_pretrained(tmp_path / "checkpoint-4"), model)


# ---- two sets, and indexes that lead elsewhere ----------------------------------------------------------------------


@pytest.fixture
def sharded(old_and_new, tmp_path):
    """`sharded(change)`: a folder whose index `change(weight map, folder)` has changed."""

    def write(change) -> Path:
        folder = tmp_path / "sharded"
        old_and_new[0].save_pretrained(folder, **SHARDED)
        index = json.loads((folder / INDEX).read_text())
        index = change(index, folder) or index
        (folder / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))
        return folder

    return write


@pytest.mark.parametrize("loader", [MMForConditionalGeneration, AutoModel, AutoModelForImageTextToText])
def test_a_folder_with_two_sets_is_refused_by_both_names(old_and_new, sharded, loader):
    folder = sharded(lambda index, folder: None)
    tied = {name: value for name, value in old_and_new[1].state_dict().items() if name != "lm_head.weight"}
    save_file(tied, folder / ONE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"two sets of weights, {ONE} and {INDEX} with its shards"):
        loader.from_pretrained(folder)


def test_safetensors_win_over_pickles_as_in_transformers(old_and_new, tmp_path):
    old, new = old_and_new
    new.save_pretrained(tmp_path)
    torch.save(old.state_dict(), tmp_path / "pytorch_model.bin")
    assert same(MMForConditionalGeneration.from_pretrained(tmp_path), new)
    assert same(MMForConditionalGeneration.from_pretrained(tmp_path, use_safetensors=False), old)


def first_shard_is(name):
    def change(index, folder):
        first = min(index["weight_map"].values())
        os.rename(folder / first, folder.parent / "outside.safetensors")
        moved = {key: name or first if value == first else value for key, value in index["weight_map"].items()}
        if name is None:
            (folder / first).symlink_to(folder.parent / "outside.safetensors")
        return {**index, "weight_map": moved}

    return change


BAD_INDEXES = {
    "above": (first_shard_is("../outside.safetensors"), "without a path"),
    "absolute": (first_shard_is(os.path.abspath("outside.safetensors")), "without a path"),
    "link": (first_shard_is(None), "a link that leads out of its folder"),
    "gone": (first_shard_is("gone.safetensors"), "'gone.safetensors', which is not there"),
    "numbers": (
        lambda index, _: {**index, "weight_map": dict.fromkeys(index["weight_map"], 3)},
        "3, which is no file name",
    ),
    "no map": (lambda index, _: {"metadata": {}}, "it needs a weight_map"),
    "no metadata": (lambda index, _: {"weight_map": index["weight_map"]}, "it needs metadata"),
    "a list": (lambda index, _: "[]", "it needs a weight_map"),
    "cut": (lambda index, _: '{"weight_map": {', "index.json' is not JSON"),
    "deep": (lambda index, _: "[" * 100_000, "index.json' is not JSON"),
}


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_an_index_that_is_broken_or_leads_out_of_the_folder_is_refused(sharded, name):
    change, words = BAD_INDEXES[name]
    folder = sharded(change)
    for loader in (MMForConditionalGeneration, AutoModel):
        with pytest.raises((ValueError, OSError), match=words):
            loader.from_pretrained(folder)


def test_links_within_a_folder_and_those_of_the_hub_s_cache_load(old_and_new, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    old_and_new[0].save_pretrained(blobs, **SHARDED)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert same(MMForConditionalGeneration.from_pretrained(snapshot), old_and_new[0])


# ---- broken files ---------------------------------------------------------------------------------------------------

CUTS = {
    "empty": lambda raw: b"", "seven bytes": lambda raw: raw[:7], "half": lambda raw: raw[: len(raw) // 2],
    "one more": lambda raw: raw + b"\0", "long header": lambda raw: struct.pack("<Q", 2**63) + raw[8:],
    "pointer": lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
}  # fmt: skip


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_file_is_named(old_and_new, tmp_path, cut):
    old_and_new[0].save_pretrained(tmp_path)
    (tmp_path / ONE).write_bytes(CUTS[cut]((tmp_path / ONE).read_bytes()))
    with pytest.raises(ValueError, match=f"{ONE}.*is not a whole file of weights"):
        AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"abc", b"", b"PK\x03\x04", b"\x80\x04N."])
def test_a_broken_pickle_is_named(old_and_new, tmp_path, content):
    old_and_new[0].save_pretrained(tmp_path)
    (tmp_path / ONE).unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        AutoModel.from_pretrained(tmp_path)


def test_broken_bytes_in_a_header_raise_nothing_raw(tiny_model, tmp_path):
    tower = tiny_model(dtype=torch.float32).model.vision_tower
    tower.save_pretrained(tmp_path)
    raw = (tmp_path / ONE).read_bytes()
    length = 8 + struct.unpack("<Q", raw[:8])[0]
    for number in range(60):
        chance, data = random.Random(number), bytearray(raw)
        for _ in range(chance.choice([1, 2, 4])):
            data[chance.randrange(length)] = chance.choice(b'0123456789-{}[],":xF\x00\xff')
        (tmp_path / ONE).write_bytes(data)
        try:
            mm.MMVisionModel.from_pretrained(tmp_path)
        except (ValueError, OSError):
            pass


def retyped(folder: Path, name: str, dtype: torch.dtype) -> None:
    state = load_file(folder / ONE)
    save_file({**state, name: state[name].to(dtype)}, folder / ONE, metadata={"format": "pt"})


WEIGHT = "model.vision_projector.weight"


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("pickled", [False, True])
def test_numbers_of_another_kind_are_no_weights(old_and_new, tmp_path, dtype, pickled):
    old_and_new[0].save_pretrained(tmp_path)
    retyped(tmp_path, WEIGHT, dtype)
    if pickled:
        torch.save(load_file(tmp_path / ONE), tmp_path / "pytorch_model.bin")
        (tmp_path / ONE).unlink()
    for loader in (MMForConditionalGeneration, AutoModel):
        with pytest.raises(
            ValueError, match=f"another kind than the model's:\n  - {WEIGHT} in .* expected torch.float32"
        ):
            loader.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_width_of_float_is_a_plain_cast(old_and_new, tmp_path, dtype):
    old_and_new[0].save_pretrained(tmp_path)
    retyped(tmp_path, WEIGHT, dtype)
    loaded = MMForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(
        loaded.model.vision_projector.weight, old_and_new[0].model.vision_projector.weight.to(dtype).float()
    )


def test_a_count_of_batches_stays_an_integer_and_is_no_float(tiny_model, tmp_path):
    tower = tiny_model("conv", dtype=torch.float32).model.vision_tower
    tower.save_pretrained(tmp_path)
    count = next(name for name in tower.state_dict() if name.endswith("num_batches_tracked"))
    assert same(mm.MMConvModel.from_pretrained(tmp_path), tower)
    retyped(tmp_path, count, torch.float32)
    with pytest.raises(ValueError, match=f"{count} in {ONE} is F32, expected torch.int64"):
        mm.MMConvModel.from_pretrained(tmp_path)


def test_integers_in_an_adapter_are_no_weights(tiny_model, tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "base")
    adapter(MMForConditionalGeneration.from_pretrained(tmp_path / "base"), tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    state = load_file(file)
    save_file({name: value.to(torch.int8) for name, value in state.items()}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is I8, expected"):
        MMForConditionalGeneration.from_pretrained(tmp_path / "lora")


def test_a_tensor_in_two_shards_is_refused(sharded):
    def twice(index, folder):
        first, *_, last = sorted(set(index["weight_map"].values()))
        state = load_file(folder / first) | load_file(folder / last)
        save_file(state, folder / last, metadata={"format": "pt"})

    with pytest.raises(ValueError, match=r"is in model-00001-of-\d+\.safetensors and in model-"):
        MMForConditionalGeneration.from_pretrained(sharded(twice))


@pytest.mark.parametrize("text", ["", "{", '{"num_beams": 3,}', "[]", "null", "\xff"])
def test_broken_settings_of_generation_are_not_set_aside(old_and_new, tmp_path, text):
    old_and_new[0].save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(text, encoding="latin-1")
    for loader in (MMForConditionalGeneration, AutoModelForImageTextToText):
        with pytest.raises(ValueError, match="generation_config.json' (is not JSON|holds no JSON object)"):
            loader.from_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert MMForConditionalGeneration.from_pretrained(tmp_path).generation_config.eos_token_id == 2
