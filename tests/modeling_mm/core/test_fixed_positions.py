"""Texts with fixed positions and scaled tokens, as fairseq's models have them, and pictures of odd sizes beside them:
the formulas written out, no row depends on its batch, and what is saved or resized stays what it was.
"""

# Fixtures build models whose types pyright cannot follow.

import math

import pytest
import torch

from comparing import close
from mm import MMForConditionalGeneration
from mm.modeling_mm.core.positions import MMSinusoids

SCALE = 3.5
TEXT = {"position_embedding_type": "sinusoidal", "embedding_scale": SCALE}
VISION = {"image_size": [16, 28], "drop_partial_patches": True}
PIXELS = torch.randn(2, 3, 16, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
RIGHT = torch.tensor([[1, 5, 6, 7], [1, 8, 0, 0]])
LEFT = torch.tensor([[1, 5, 6, 7], [0, 0, 1, 8]])


@pytest.fixture
def model(tiny_model) -> MMForConditionalGeneration:
    return tiny_model(text_config=TEXT, vision_config=VISION)


def logits(model, ids, pixels=PIXELS):
    return model(pixel_values=pixels, input_ids=ids, attention_mask=ids.ne(0)).logits


def test_positions_are_sines_then_cosines_from_the_second_place_on():
    positions = MMSinusoids(8)(torch.tensor([[0, 3]]))[0]
    for row, number in zip(positions, (2, 5), strict=True):
        angles = [number * 10000 ** (-i / 3) for i in range(4)]
        wanted = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])
        assert (row - wanted).abs().max() <= 1e-6


def test_tokens_are_scaled_and_what_is_tied_to_them_is_not(model):
    embeddings = model.get_input_embeddings()
    assert torch.equal(embeddings(RIGHT), embeddings.weight[RIGHT] * SCALE)
    assert model.get_output_embeddings().weight is embeddings.weight


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch_or_the_side_of_its_padding(model):
    alone = logits(model, RIGHT[1:, :2], PIXELS[1:])[0]
    for found in (logits(model, RIGHT)[1, :2], logits(model, LEFT)[1, 2:]):
        assert (found - alone).abs().max() <= 1e-12
    for beams in (1, 3):
        settings = {"num_beams": beams, "max_new_tokens": 5, "do_sample": False}
        batch = model.generate(pixel_values=PIXELS, input_ids=LEFT, attention_mask=LEFT.ne(0), **settings)[1, 2:]
        single = model.generate(pixel_values=PIXELS[1:], input_ids=LEFT[1:, 2:], **settings)[0]
        assert torch.equal(batch[: len(single)], single)


@torch.no_grad()
def test_saved_loaded_and_resized_it_says_the_same(model, tmp_path):
    before = logits(model, RIGHT)
    model.save_pretrained(tmp_path)
    again = MMForConditionalGeneration.from_pretrained(tmp_path).eval()
    close(logits(again, RIGHT), before)
    words = model.config.text_config.vocab_size
    again.resize_token_embeddings(words + 3, mean_resizing=False)
    assert (logits(again, RIGHT)[..., :words] - before).abs().max() <= 1e-12


def test_gradients_are_those_of_the_tokens_times_the_scale(tiny_model):
    plain = tiny_model(text_config={**TEXT, "embedding_scale": 1.0}, vision_config=VISION, tie_word_embeddings=False)
    scaled = tiny_model(text_config=TEXT, vision_config=VISION, tie_word_embeddings=False)
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        scaled.get_input_embeddings().weight /= SCALE
    for one in (plain, scaled):
        one(pixel_values=PIXELS, input_ids=RIGHT, labels=RIGHT).loss.backward()
    there, here = (one.get_input_embeddings().weight.grad for one in (plain, scaled))
    assert (here - there * SCALE).abs().max() <= 1e-12 * max(1.0, float(there.abs().max()) * SCALE)
