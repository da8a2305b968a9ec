"""LLaVA: pictures inside the text, converted and back, beside the installed class."""

# Fixtures build models whose types pyright cannot follow.

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen3Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from comparing import close
from mm import MMImageProcessorPil, MMProcessor
from mm.conversion_scripts.engine import FAMILIES, convert, convert_back
from mm.conversion_scripts.refused import REFUSED
from mm.conversion_scripts.verify import verify
from mm.weights.checkpoint import Checkpoint
from published_chats import rows_alone, served

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


WORDS = ["<pad>", "<s>", "</s>", "<unk>", "\n", *" abcdefghijklmnopqrstuvwxyz?:"]
TEMPLATE = "{% for m in messages %}{% for b in m['content'] %}{{ '<image>' if b['type'] == 'image' else b['text'] }}{% endfor %}{% endfor %}"  # noqa: E501


@pytest.fixture(params=PARTS)
def source(request, peer, saved, character_tokenizer):
    """A source with its processor: (its folder, its processor)."""
    name, token = request.param, len(WORDS)
    vision, _, strategy, _ = PARTS[name]
    own = {"image_token_index": token, "text_config": {**PARTS[name][1].to_dict(), "max_position_embeddings": 200}}
    folder = saved(peer(LlavaForConditionalGeneration, settings(name, **own)))
    square = {"height": vision.image_size, "width": vision.image_size}
    cut = CLIPImageProcessorPil(size={"shortest_edge": vision.image_size}, crop_size=square)
    images = cut if strategy == "default" else SiglipImageProcessorPil(size=square)
    processor = LlavaProcessor(
        images, character_tokenizer(WORDS, ["<image>"]), patch_size=vision.patch_size, chat_template=TEMPLATE,
        vision_feature_select_strategy=strategy, num_additional_image_tokens=int(strategy == "default"),
    )  # fmt: skip
    processor.save_pretrained(folder)
    return folder, processor


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_the_processor_makes_their_ids_and_pixels_and_comes_back(source, tmp_path):
    folder, processor = source
    done = convert(folder)
    assert done.processor.chat_template == TEMPLATE
    seen, texts = [[picture(40, 90), picture(9, 8)], [picture(30, 20)]], ["what is<image> and <image>?", "<image>a"]
    given = {"images": [one for row in seen for one in row], "text": texts, "padding": True, "return_tensors": "pt"}
    wanted, found = processor(**given), done.processor(images=seen, text=texts, return_tensors="pt")
    here, there = ([row[row > 1] for row in one["input_ids"]] for one in (found, wanted))
    assert all(torch.equal(*pair) for pair in zip(here, there, strict=True))
    close(found["pixel_values"][found["pixel_attention_mask"]], wanted["pixel_values"], 1e-5)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "llava", tmp_path / "back")
    again = AutoProcessor.from_pretrained(tmp_path / "back")
    same = again(**given)
    assert all(torch.equal(same[name], wanted[name]) for name in wanted) and again.chat_template == TEMPLATE


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_no_to_four_pictures_are_what_each_is_alone(source, seed):
    rows_alone(convert(source[0]), "<image>", seed=seed)


def test_it_is_served(source):
    served(convert(source[0]), [picture(40, 90), picture(30, 20)])


def test_pictures_that_nothing_is_cut_from_go_back_so_with_a_model_that_came_from_nowhere(pair, tmp_path):
    """A CLIP's image processor cuts to 224 x 224 where it is told nothing."""
    _, done, _ = pair
    done.model.config.converted_from = None
    done.save_pretrained(tmp_path / "mm")
    own = MMImageProcessorPil(size={"height": 16, "width": 16})
    MMProcessor(own).save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "llava", tmp_path / "back")
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "back")
    here, there = (torch.as_tensor(np.asarray(one(picture(41, 30))["pixel_values"]))[0] for one in (own, theirs))
    close(here, there, 1e-6)


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
