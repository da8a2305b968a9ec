"""from_pretrained compares weight files with the manifest beside them: sizes always, SHA-256 on request."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

import mm


@pytest.fixture(params=[{}, {"max_shard_size": "40KB"}], ids=["one file", "shards"])
def saved(request, tmp_path, tiny_model) -> Path:
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "model", **request.param)
    mm.write_manifest(tmp_path / "model")
    return tmp_path / "model"


def weight_file(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("loader", [mm.MMForConditionalGeneration, AutoModelForImageTextToText])
@pytest.mark.parametrize("length", [0, 4, -1])
def test_a_weight_file_of_another_size_is_named(saved, loader, length):
    path = weight_file(saved)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"{path.name}.*manifest\.json"):
        loader.from_pretrained(saved)


@pytest.mark.parametrize("loader", [mm.MMForConditionalGeneration, AutoModelForImageTextToText])
def test_other_bytes_of_the_same_size_are_found_on_request(saved, loader):
    loader.from_pretrained(saved, verify_hashes=True)
    flip(weight_file(saved))
    loader.from_pretrained(saved)  # what is documented: only hashes can tell
    with pytest.raises(ValueError, match=weight_file(saved).name):
        loader.from_pretrained(saved, verify_hashes=True)


def test_other_files_may_be_edited(saved):
    (saved / "generation_config.json").write_text(json.dumps({"max_new_tokens": 3}))
    (saved / "README.md").write_text("more than before")
    model = mm.MMForConditionalGeneration.from_pretrained(saved, verify_hashes=True)
    assert model.generation_config.max_new_tokens == 3
    assert any(check.is_fault and "generation_config.json" in check.told for check in mm.verify(saved))


def test_a_new_save_of_weights_takes_the_manifest_of_the_old_ones_away(saved, tiny_model):
    tiny_model(dtype=torch.float32, text="llama").save_pretrained(saved)
    assert not (saved / "manifest.json").exists() and not (saved / "forward.json").exists()
    mm.MMForConditionalGeneration.from_pretrained(saved)
    with pytest.raises(ValueError, match="verify_hashes"):  # nothing to compare with is said, not passed over
        mm.MMForConditionalGeneration.from_pretrained(saved, verify_hashes=True)


def test_a_file_that_is_no_manifest_of_ours_is_named_and_never_deleted(saved, tiny_model):
    (saved / "manifest.json").write_text('{"name": "of a web page"}')
    tiny_model(dtype=torch.float32).save_pretrained(saved)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        mm.MMForConditionalGeneration.from_pretrained(saved)
    assert "web page" in (saved / "manifest.json").read_text()


def test_hashes_of_weights_that_are_no_files_cannot_be_asked_for(saved, tiny_model):
    with pytest.raises(ValueError, match="verify_hashes"):
        mm.MMForConditionalGeneration.from_pretrained(saved, verify_hashes=True, state_dict={})
    adapter = pytest.importorskip("peft").LoraConfig(target_modules="all-linear", r=2)
    model = mm.MMForConditionalGeneration.from_pretrained(saved)
    model.add_adapter(adapter)
    model.save_pretrained(saved.parent / "adapter")
    with pytest.raises(ValueError, match="adapter_model"):  # the base has a manifest, the adapter has none
        mm.MMForConditionalGeneration.from_pretrained(saved.parent / "adapter", verify_hashes=True)
