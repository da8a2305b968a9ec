"""LLaVA: pictures inside the text, converted and back, beside the installed class."""

# Fixtures build models whose types pyright cannot follow.

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen3Config,
    SiglipVisionConfig,
)

from mm.conversion_scripts.engine import FAMILIES, convert, convert_back
from mm.conversion_scripts.refused import REFUSED
from mm.conversion_scripts.verify import verify
from mm.weights.checkpoint import Checkpoint

IMAGE = 49
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PARTS = {
    "clip and llama": (CLIPVisionConfig(**VISION), LlamaConfig(**TEXT), "default", -2),
    "siglip and qwen3": (SiglipVisionConfig(**VISION), Qwen3Config(**TEXT, head_dim=16), "full", -1),
}


def settings(name: str, **changes) -> LlavaConfig:
    vision, text, strategy, layer = PARTS[name]
    reads = {"vision_feature_select_strategy": strategy, "vision_feature_layer": layer}
    return LlavaConfig(
        **{"vision_config": vision, "text_config": text, "image_token_index": IMAGE, **reads, **changes}
    )


@pytest.fixture(params=PARTS)
def pair(request, peer, saved):
    theirs = peer(LlavaForConditionalGeneration, settings(request.param))
    source = saved(theirs)
    return theirs, convert(source), source


def test_logits_are_equal_and_it_is_written_back(pair, tmp_path):
    _, done, source = pair
    lines = verify(Checkpoint(source), done.model.eval(), FAMILIES["llava"])
    assert len(lines) == 2 and all("differ by" in line for line in lines)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "llava", tmp_path / "back")
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_tokens_are_equal(pair, beams):
    theirs, ours = pair[0].double().eval(), pair[1].model.double().eval()
    ids = torch.tensor([[0, 1] + [IMAGE] * 4 + [7, 8], [1, 5, 9] + [IMAGE] * 4 + [7]])
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    given = {"input_ids": ids, "attention_mask": ids.ne(0).long(), "pixel_values": pixels}
    search = {"num_beams": beams, "max_new_tokens": 5, "do_sample": False, "suppress_tokens": [IMAGE, 2]}
    assert torch.equal(ours.generate(**given, **search), theirs.generate(**given, **search))


@pytest.mark.parametrize(
    "changes",
    [{"vision_feature_layer": [-2, -1]}, {"projector_hidden_act": "relu"}, {"multimodal_projector_bias": False}],
    ids=str,
)
def test_settings_that_mm_lacks_are_refused_by_name(peer, saved, changes):
    source = saved(peer(LlavaForConditionalGeneration, settings("clip and llama", **changes)))
    with pytest.raises(ValueError, match=next(iter(changes))):
        convert(source)


@pytest.mark.parametrize("kind", ["qwen2_vl", "florence2", "beit3", "instructblip"])
def test_families_that_are_known_and_not_converted_say_why(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=re.escape(REFUSED[kind][:40])):
        convert(tmp_path)
