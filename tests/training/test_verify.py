"""mm verify finds what is wrong with a saved model, whatever it is, and nothing where nothing is."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mm
from mm.cli.verify import print_report
from mm.training.verify import verify, write_manifest


@pytest.fixture(scope="module")
def with_manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    processor = mm.MMProcessor.from_pretrained("checkpoints/mm-tiny")
    parts = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = mm.MMConfig.from_pretrained("checkpoints/mm-tiny").text_config
    ids = {name: getattr(settings, name) for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    config = mm.MMConfig(
        vision_config={**parts, "image_size": 128, "patch_size": 64},
        text_config={**parts, **ids, "max_position_embeddings": 32},
    )
    mm.MMForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    write_manifest(folder)
    return folder


@pytest.fixture
def saved(with_manifest, tmp_path) -> Path:
    return Path(shutil.copytree(with_manifest, tmp_path / "saved"))


def faults(folder) -> list[str]:
    return [check.told for check in verify(folder) if check.is_fault]


def without_manifest(folder) -> Path:
    (folder / "manifest.json").unlink()
    return folder


def test_a_saved_folder_has_no_fault_and_every_check_ran(saved):
    found = verify(saved)
    assert not any(check.is_fault for check in found)
    assert {check.name for check in found} == {"manifest", "weights", "model", "processor", "forward"}
    assert faults(without_manifest(saved)) == []
    lines: list[str] = []
    assert print_report(str(saved), lines.append, as_json=True)
    assert [json.loads(line) for line in lines] == [
        {"check": check.name, "told": check.told, "fault": False} for check in verify(saved)
    ]


def test_any_flipped_bit_is_found(saved):
    luck, path = random.Random(0), saved / "model.safetensors"
    whole = path.read_bytes()
    for _ in range(20):
        place = luck.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << luck.randrange(8)]) + whole[place + 1 :])
        assert any("model.safetensors" in told for told in faults(saved))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_found_without_a_manifest(saved, value):
    path = without_manifest(saved) / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[0] = value
    save_file(tensors, path, {"format": "pt"})
    assert any(name in told for told in faults(saved))


def test_other_weights_of_the_same_shape_are_found_by_the_forward(saved):
    path = without_manifest(saved) / "model.safetensors"
    tensors = {name: value * 1.05 for name, value in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    assert any("fixed input" in told for told in faults(saved))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("generation_config.json", "[1]"),
        ("tokenizer.json", "{}"),
        ("processor_config.json", "x"),
    ],
)
def test_broken_json_is_named(saved, name, content):
    (without_manifest(saved) / name).write_text(content)
    assert faults(saved)


def test_two_sets_of_weights_a_missing_key_and_a_missing_file_are_found(saved):
    path = without_manifest(saved) / "model.safetensors"
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    assert any("two sets" in told for told in faults(saved))
    (saved / "model.safetensors.index.json").unlink()
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path, {"format": "pt"})
    assert faults(saved)
    path.unlink()
    assert any("model.safetensors" in told for told in faults(saved))


def test_a_processor_of_another_model_is_found(saved):
    config = json.loads((without_manifest(saved) / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 5
    (saved / "config.json").write_text(json.dumps(config))
    generation = saved / "generation_config.json"
    generation.write_text(json.dumps({**json.loads(generation.read_text()), "eos_token_id": 5}))
    assert any("eos_token_id" in told for told in faults(saved))


def test_the_command_says_ok_or_fault_by_its_exit_code(saved):
    from typer.testing import CliRunner

    from mm_console import app

    told = CliRunner().invoke(app, ["verify", str(saved)])
    assert told.exit_code == 0 and "no faults" in told.stdout
    (saved / "README.md").write_text("edited")
    (saved / "tokenizer.json").write_text((saved / "tokenizer.json").read_text() + " ")
    told = CliRunner().invoke(app, ["verify", str(saved)])
    assert told.exit_code == 2 and "tokenizer.json" in told.stdout
    assert CliRunner().invoke(app, ["verify", str(saved / "gone" / "x")]).exit_code == 2


def test_trainer_writes_a_manifest_of_what_it_saves(trainer, tmp_path):
    run = trainer(max_steps=1)
    run.train()
    for folder in (tmp_path / "final", tmp_path / "run"):
        run.save_model(str(folder))
        found = verify(folder)
        assert not any(check.is_fault for check in found)
        assert {"manifest", "forward"} <= {check.name for check in found}
    assert (tmp_path / "run" / "checkpoint-1").is_dir()
    held = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert not any("checkpoint" in name for name in held["files"])
