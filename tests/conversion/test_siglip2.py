"""SigLIP 2 with NaFlex: pictures of any aspect, beside the installed class and its processor."""

# Fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

from mm import MMForConditionalGeneration, MMForImageTextRetrieval, MMImageProcessorPil
from mm.conversion_scripts.engine import convert, convert_back, run
from mm.conversion_scripts.processor import check_same_pixels
from mm.conversion_scripts.siglip2 import compare
from mm.conversion_scripts.verify import Given

WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
READS = {**WIDE, "vocab_size": 30, "max_position_embeddings": 8}
ODD = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 3}
CASES = {
    "usual": Siglip2Config(vision_config={**WIDE, "patch_size": 4, "num_patches": 16}, text_config=READS),
    "odd": Siglip2Config(  # towers of two widths, one channel, an odd grid
        vision_config={**ODD, "patch_size": 3, "num_patches": 49, "num_channels": 1, "layer_norm_eps": 1e-3},
        text_config={**READS, "hidden_size": 40, "projection_size": 24, "hidden_act": "gelu"},
    ),
}
SIZES = (40, 40), (90, 30), (10, 100), (3, 5)


def given(config) -> Given:
    """Pictures whose canvas is wider than the trained square."""
    vision, generator = config.vision_config, torch.Generator().manual_seed(1)
    height, width = 5 * vision.patch_size, 9 * vision.patch_size
    pixels = torch.randn(3, vision.num_channels, height, width, generator=generator)
    ids = torch.randint(3, 30, (3, 8), generator=generator)
    return Given(pixels, ids, torch.ones_like(ids), torch.empty(0), torch.empty(0))


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_rectangles_give_the_source_s_logits_and_come_back_bit_by_bit(
    name, peer, saved, assert_close, tensors_of, tmp_path
):
    theirs = peer(Siglip2Model, CASES[name])
    source = saved(theirs)
    report = run(str(source), str(tmp_path / "mm"), compare=True)
    assert sum(line.startswith("verified") for line in report) == 4
    ours = MMForImageTextRetrieval.from_pretrained(tmp_path / "mm").eval()
    found = compare(theirs, ours, given(theirs.config))
    assert len(found) == 4
    for here, there in found.values():
        assert_close(here, there)
    run(str(tmp_path / "mm"), str(tmp_path / "back"), to="siglip2", compare=True)
    before, after = tensors_of(source), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys() and all(torch.equal(after[key], value) for key, value in before.items())


@pytest.fixture
def processed(peer, saved, words_tokenizer):
    """The source's model and directory, with a processor of its own patches."""
    text = {**READS, "max_position_embeddings": 64}
    config = Siglip2Config(vision_config={**WIDE, "patch_size": 16, "num_patches": 9}, text_config=text)
    theirs = peer(Siglip2Model, config)
    images = Siglip2ImageProcessorPil(max_num_patches=9)
    return theirs, saved(theirs, Siglip2Processor(images, words_tokenizer())), images


@torch.no_grad()
def test_processor_and_model_together_give_the_source_s_logits(processed, assert_close, tmp_path):
    theirs, source, images = processed
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]
    texts = ["a red dog", "mat", "a dog a mat", "red red"]
    done = convert(source)
    tokenizer = done.processor.tokenizer
    sides = {"padding": "max_length", "max_length": 64, "padding_side": "right"}  # its class pads at the left
    words = tokenizer(texts, **sides, return_tensors="pt")["input_ids"]
    there = theirs(input_ids=words, **images(pictures, return_tensors="pt")).logits_per_image
    batch = done.processor(images=pictures, text=texts, return_tensors="pt")
    assert torch.equal(batch["input_ids"], words)
    assert_close(done.model(**batch, return_loss=False).logits_per_image, there)
    for row, one in zip(there, pictures, strict=True):  # on a canvas of its own
        alone = done.processor(images=one, text=[texts], return_tensors="pt")
        assert_close(done.model(**alone, return_loss=False).logits_per_image[0], row)
    done.save_pretrained(tmp_path / "mm")
    convert_back(tmp_path / "mm", "siglip2", tmp_path / "back")
    back = Siglip2Processor.from_pretrained(tmp_path / "back")
    assert back.image_processor.max_num_patches == 9
    again = back.image_processor(pictures, return_tensors="pt")
    assert all(torch.equal(again[name], value) for name, value in images(pictures, return_tensors="pt").items())


def test_an_image_processor_that_squashes_has_no_way_back(processed, tmp_path):
    done = convert(processed[1])
    done.processor.image_processor.resize_mode = "squash"
    done.save_pretrained(tmp_path / "mm")
    with pytest.raises(ValueError, match="keeps the aspect.*resize_mode='native'"):
        convert_back(tmp_path / "mm", "siglip2", tmp_path / "back")
    with pytest.raises(ValueError, match="makes .* of a picture"):
        check_same_pixels(MMImageProcessorPil(resize_mode="native", patch_size=16, max_patches=8), processed[2])


@torch.no_grad()
def test_its_tower_alone_starts_a_model(peer, saved, assert_close):
    tower = peer(Siglip2VisionModel, Siglip2VisionConfig(**WIDE, patch_size=4, num_patches=16))
    text = peer(GPT2LMHeadModel, GPT2Config(n_embd=24, n_layer=1, n_head=2, vocab_size=30, n_positions=16,
                                            bos_token_id=1, eos_token_id=2))  # fmt: skip
    model = MMForConditionalGeneration.from_towers(saved(tower, name="tower"), saved(text, name="text"))
    ours, config = model.model.vision_tower, given(Siglip2Config(vision_config=tower.config.to_dict()))
    pixels, mask = config.pixel_values, torch.ones(3, 5, 9, dtype=torch.bool)
    patches = pixels.unflatten(3, (9, 4)).unflatten(2, (5, 4)).permute(0, 2, 4, 3, 5, 1).reshape(3, 45, -1)
    shapes = torch.tensor([[5, 9]] * 3)
    there = tower(patches, pixel_attention_mask=mask.flatten(1).long(), spatial_shapes=shapes)
    here = ours(pixels, pixel_attention_mask=mask)
    assert_close(here.last_hidden_state, there.last_hidden_state)
    assert_close(here.pooler_output, there.pooler_output)


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"num_patches": 15}, "num_patches=15.*square"),
        ({"patch_size": [4, 2]}, "patch_size=.*square"),
        ({"vision_use_head": False}, "vision_use_head=False"),
    ],
)
def test_what_mm_lacks_is_refused_in_words(tmp_path, vision, message):
    config = Siglip2Config(vision_config={**WIDE, "patch_size": 4, "num_patches": 16, **vision}, text_config=READS)
    config.save_pretrained(tmp_path)
    save_file({"vision_model.embeddings.patch_embedding.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path)
