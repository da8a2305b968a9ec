"""GIT: pictures and videos, converted and back, beside the installed class."""

# Fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM

from comparing import close
from mm.conversion_scripts.engine import convert, convert_back

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 26,
    "max_position_embeddings": 24, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
VISION = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
ODD_VISION = {**VISION, "patch_size": 5, "image_size": 15, "hidden_act": "gelu", "layer_norm_eps": 1e-3}
CONFIGS = {
    "pictures": GitConfig(**TEXT, vision_config=VISION),
    "videos": GitConfig(**TEXT, vision_config=VISION, num_image_with_embedding=3),
    "odd, tied": GitConfig(
        **{**TEXT, "num_attention_heads": 2, "hidden_act": "relu"}, vision_config=ODD_VISION, tie_word_embeddings=True
    ),
}  # fmt: skip
IDS = torch.tensor([[2, 5, 9, 8, 12, 3], [2, 6, 8, 7, 4, 3]])


@pytest.fixture(params=CONFIGS)
def pair(request, peer, saved):
    theirs = peer(GitForCausalLM, CONFIGS[request.param])
    source = saved(theirs)
    theirs.config.vision_config._attn_implementation = "sdpa"  # their own attention rounds its softmax to fp32
    return theirs, convert(source), source


@pytest.fixture
def pixels(pair) -> torch.Tensor:
    """A picture, or three frames, per context."""
    config = pair[0].config
    frames, size = config.num_image_with_embedding, config.vision_config.image_size
    shape = (2, 3, size, size) if frames is None else (2, frames, 3, size, size)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def media(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixel_values": pixels} if pixels.ndim == 4 else {"pixel_values_videos": pixels}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_logits_and_loss_are_equal(pair, pixels, assert_close, dtype):
    theirs, ours, pixels = pair[0].to(dtype), pair[1].model.to(dtype), pixels.to(dtype)
    labels = IDS.masked_fill(IDS == 12, -100)
    there = theirs(input_ids=IDS, pixel_values=pixels, labels=labels)
    here = ours(input_ids=IDS, labels=labels, **media(pixels))
    assert_close(here.logits, there.logits[:, -IDS.shape[1] :])
    assert_close(here.loss.float(), there.loss.float())  # theirs is of logits rounded to fp32


@torch.no_grad()
def test_a_padded_text_has_the_same_logits(pair, pixels, assert_close):
    theirs, ours = pair[0].double(), pair[1].model.double()
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    ids[1, 4:], mask[1, 4:] = 0, 0
    there = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits[:, -6:]
    here = ours(input_ids=ids, attention_mask=mask, **media(pixels)).logits
    assert_close(here[mask.bool()], there[mask.bool()])


@pytest.mark.slow
def test_every_gradient_is_equal(pair, pixels, assert_gradients):
    """Of logits, as the loss there is of logits rounded to fp32."""
    theirs, done, source = pair
    theirs, ours = theirs.double(), done.model.double()
    there = theirs(input_ids=IDS, pixel_values=pixels).logits[:, -IDS.shape[1] :]
    for logits in (there, ours(input_ids=IDS, **media(pixels)).logits):
        logits.log_softmax(-1)[..., 5].sum().backward()
    assert_gradients(theirs, ours, source, "git")


@pytest.mark.slow
@torch.no_grad()
def test_the_states_of_every_layer_are_equal(pair, pixels, states_of, assert_close):
    """Of the last frame, as theirs reads frames one after the other; and of the text."""
    theirs, ours = pair[0].double(), pair[1].model.double()
    seen = theirs.git.image_encoder.vision_model.encoder.layers
    there = states_of([*seen, *theirs.git.encoder.layer], lambda: theirs(input_ids=IDS, pixel_values=pixels))
    layers = [*ours.model.vision_tower.layers, *ours.model.language_model.layers]
    here = states_of(layers, lambda: ours(input_ids=IDS, **media(pixels)))
    for place, (one, two) in enumerate(zip(here, there, strict=True)):
        if place < len(seen):
            assert_close(one.unflatten(0, (len(IDS), -1))[:, -1], two)
        else:
            assert_close(one[:, -IDS.shape[1] :], two[:, -IDS.shape[1] :])


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_prompts_of_unequal_length_are_continued_as_each_alone(pair, pixels, assert_prompts_alone, beams):
    theirs, ours = pair[0].double(), pair[1].model.double()
    prompts, settings = [[2, 5, 9, 8], [2, 6]], {"num_beams": beams, "max_new_tokens": 6, "do_sample": False}

    def alone_there(row):
        ids = torch.tensor([prompts[row]])
        return theirs.generate(pixel_values=pixels[row : row + 1], input_ids=ids, **settings)[0, len(prompts[row]) :]

    assert_prompts_alone(ours, prompts, media(pixels), alone_there, **settings)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_same_tokens_are_written_without_and_with_a_prompt(pair, pixels, beams):
    theirs, ours = pair[0].double(), pair[1].model.double()
    settings = {"num_beams": beams, "max_new_tokens": 7, "do_sample": False}
    for prompt in ({}, {"input_ids": IDS[:, :3]}):
        there = theirs.generate(pixel_values=pixels, **prompt, **settings)
        assert torch.equal(ours.generate(**media(pixels), **prompt, **settings), there)


def test_back_every_tensor_is_bit_equal_and_the_class_loads_it(pair, pixels, tmp_path, tensors_of):
    theirs, done, source = pair
    theirs.config.vision_config._attn_implementation = "eager"
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "git", tmp_path / "back")
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    again, info = GitForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        there, here = (m(input_ids=IDS, pixel_values=pixels.float()).logits for m in (theirs, again.eval()))
    close(there, here)


def test_pictures_are_cut_as_theirs_are(peer, saved, tokenizer):
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    done = convert(saved(peer(GitForCausalLM, CONFIGS["pictures"]), images, tokenizer))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8))
    inputs = done.processor(images=picture, text="a red dog", return_tensors="pt")
    there = torch.as_tensor(np.asarray(images(picture)["pixel_values"]))
    assert (inputs["pixel_values"] - there).abs().max() <= 1e-6
    assert inputs["input_ids"][0].tolist() == tokenizer("a red dog")["input_ids"][:-1]
