"""The engine from end to end: sources, refusals, dtypes, and the two command lines."""

# Fixtures build models whose types pyright cannot follow.

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GitConfig, GitForCausalLM, MambaConfig, MambaModel, ResNetConfig, ResNetModel
from typer.testing import CliRunner

import mm
import mm_console
from mm.conversion_scripts.engine import convert_back
from mm.weights.checkpoint import Checkpoint

SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = GitConfig(
    **SIZES, vocab_size=26, max_position_embeddings=12, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    vision_config={**SIZES, "image_size": 16, "patch_size": 8},
)  # fmt: skip


@pytest.fixture
def theirs(peer):
    return peer(GitForCausalLM, CONFIG)


@pytest.fixture
def source(theirs, saved):
    return saved(theirs)


def equal(one, two) -> bool:
    return all(torch.equal(a, two.state_dict()[name]) for name, a in one.state_dict().items())


def test_a_model_in_memory_is_the_saved_and_loaded_one(source, tmp_path):
    done = mm.convert(source)
    done.save_pretrained(tmp_path / "out")
    loaded = mm.MMForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert equal(done.model, loaded) and not done.model.training
    assert loaded.generation_config.eos_token_id == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_is_kept_there_and_back(theirs, saved, tmp_path, dtype):
    source = saved(theirs.to(dtype))
    done = mm.convert(source)
    assert {value.dtype for value in done.model.state_dict().values()} == {dtype}
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "git", tmp_path / "back")
    assert {value.dtype for value in load_file(tmp_path / "back/model.safetensors").values()} == {dtype}


def test_shards_and_pickles_give_the_same_model(theirs, source, tmp_path):
    whole = mm.convert(source).model
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert equal(mm.convert(tmp_path / "shards").model, whole)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/config.json").write_text((source / "config.json").read_text())
    torch.save(load_file(source / "model.safetensors"), tmp_path / "bin/pytorch_model.bin")
    assert equal(mm.convert(tmp_path / "bin").model, whole)


@pytest.mark.parametrize("place", ["model", "state_dict", "model_state_dict"])
def test_a_trainer_s_file_gives_the_tensors_under_their_own_names(tmp_path, place):
    tensors = {"module.a.weight": torch.ones(2), "module.b": torch.zeros(3)}
    torch.save({place: tensors, "epoch": 3}, tmp_path / "checkpoint.pt")
    assert set(Checkpoint(tmp_path / "checkpoint.pt")) == {"a.weight", "b"}
    torch.save({place: {**tensors, "c": torch.ones(1)}}, tmp_path / "mixed.pt")
    assert set(Checkpoint(tmp_path / "mixed.pt")) == {"module.a.weight", "module.b", "c"}


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/weights.safetensors", "a\\b.safetensors", ".."])
def test_a_shard_elsewhere_is_refused(source, shard):
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"output.weight": shard}}))
    with pytest.raises(ValueError, match="a shard is in the folder of its index"):
        mm.convert(source)


def test_keys_too_many_and_too_few_are_listed(source):
    tensors = load_file(source / "model.safetensors")
    tensors["adapter.weight"] = tensors.pop("output.bias")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError) as raised:
        mm.convert(source)
    assert "no place for adapter.weight" in str(raised.value)
    assert "nothing for lm_head.bias" in str(raised.value)


def test_what_is_not_known_is_told_with_what_is(peer, saved, tmp_path):
    other = saved(peer(ResNetModel, ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")))
    with pytest.raises(ValueError, match=r"model_type='resnet'.*known are blip, vision-encoder-decoder, git"):
        mm.convert(other)
    mamba = saved(peer(MambaModel, MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=20)), name="mamba")
    with pytest.raises(ValueError, match="'mamba'.*cannot become a text tower either: a state.*state_size=16"):
        mm.convert(mamba)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no weights in"):
        mm.convert(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no directory or file"):
        mm.convert("./nowhere/at/all")


def test_a_model_that_is_no_git_does_not_become_one(tiny_model, source, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="another kind"):
        convert_back(tmp_path / "other", "git", tmp_path / "back")
    with pytest.raises(ValueError, match="--to clop is not known; accepted: blip"):
        convert_back(tmp_path / "other", "clop", tmp_path / "back")
    with pytest.raises(ValueError, match="not one of MM"):
        convert_back(source, "git", tmp_path / "back")


def test_the_command_line_converts_there_and_back(source, tmp_path):
    runner, out, back = CliRunner(), str(tmp_path / "out"), str(tmp_path / "back")
    there = runner.invoke(mm_console.app, ["convert", str(source), out])
    assert there.exit_code == 0 and "tensors:" in there.output and "the source has no image_processor" in there.output
    assert runner.invoke(mm_console.app, ["convert", "--to", "git", out, back]).exit_code == 0
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_dry_run_writes_nothing_and_a_missing_out_is_told(source, tmp_path):
    runner = CliRunner()
    dry = runner.invoke(mm_console.app, ["convert", "--dry-run", str(source), str(tmp_path / "out")])
    assert dry.exit_code == 0 and "model: MMForConditionalGeneration" in dry.output
    assert not (tmp_path / "out").exists()
    missing = runner.invoke(mm_console.app, ["convert", str(source)])
    assert missing.exit_code == 2 and "OUT is missing" in missing.output
