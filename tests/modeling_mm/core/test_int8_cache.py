"""Contexts in int8: how far a state and a logit may be off, what it saves, and that it is a cache like any other."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicCache

from mm import MMCache
from mm.modeling_mm.core.int8_cache import Int8Context, Int8Layer, rounded

IDS = torch.tensor([[1, 5, 6], [1, 7, 8], [1, 9, 4]])


def int8_cache(model) -> MMCache:
    return MMCache(DynamicCache(config=model.config.text_config), Int8Context())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_number_is_off_by_at_most_half_a_step_of_its_vector(dtype):
    states = torch.randn(2, 3, 50, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    states[0, 0, 0] = 0
    given = rounded(states).states()
    largest = states.abs().amax(-1, keepdim=True)
    # Half a step, and the rounding of the step and of the product in their own dtype.
    bound = largest / 254 + 2 * torch.finfo(dtype).eps * largest
    assert ((given - states).abs() <= bound).all()
    assert (given[0, 0, 0] == 0).all() and torch.equal(rounded(given).numbers, rounded(states).numbers)


def test_attention_over_rounded_states_is_off_by_no_more_than_their_rounding_allows():
    """Keys off by d move a score by at most e = scale * |q|_1 * d, so a weight p to at most p * exp(2e)."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 3, length, 16, generator=generator, dtype=torch.float64) for length in (7, 50, 50)
    )
    exact = scaled_dot_product_attention(query, key, value)
    given = scaled_dot_product_attention(query, rounded(key).states(), rounded(value).states())
    of_key, of_value = (states.abs().amax((-1, -2), keepdim=True) / 254 for states in (key, value))  # half a step
    moved = torch.exp(2 * 16**-0.5 * query.abs().sum(-1, keepdim=True) * of_key)
    bound = of_value + (moved - 1) * value.abs().amax((-1, -2), keepdim=True)
    assert ((given - exact).abs() <= bound).all() and (given - exact).abs().max() > 1e-4


def test_a_layer_takes_a_quarter_of_float32_and_a_half_of_bfloat16():
    for dtype, share in ((torch.float32, (64 + 4) / (4 * 64)), (torch.bfloat16, (64 + 2) / (2 * 64))):
        layer, states = Int8Layer(), torch.randn(2, 4, 30, 64).to(dtype)
        layer.update(states, states)
        assert layer.num_bytes() == 2 * states.numel() * states.element_size() * share
        assert layer.get_seq_length() == 30 and layer.keys.dtype == dtype


@pytest.mark.parametrize("text", ["inside", "own", "llama"])
def test_prefill_and_decode_read_the_same_rounded_context(tiny_model, pictures, text):
    model = tiny_model("vit", text)
    cache = int8_cache(model)
    whole = model(input_ids=IDS, pixel_values=pictures, past_key_values=cache).logits
    cache = int8_cache(model)
    model(input_ids=IDS[:, :2], pixel_values=pictures, past_key_values=cache)
    last = model(input_ids=IDS[:, 2:], past_key_values=cache).logits
    torch.testing.assert_close(last[:, -1], whole[:, -1], rtol=1e-12, atol=1e-12)
    exact = model(input_ids=IDS, pixel_values=pictures).logits
    assert 0 < (whole - exact).abs().max() < 0.05 * exact.abs().max()


def test_beams_share_the_rounded_context_and_a_reset_cache_takes_another(tiny_model, pictures):
    model = tiny_model()
    settings = {"num_beams": 3, "max_new_tokens": 5, "do_sample": False}
    cache = int8_cache(model)
    first = model.generate(input_ids=IDS, pixel_values=pictures, past_key_values=cache, **settings)
    layer = cache.cross_attention_cache.layers[0]
    assert isinstance(layer, Int8Layer) and layer.keys.shape[0] == len(pictures)
    with pytest.raises(ValueError, match="another context"):
        model.generate(input_ids=first, pixel_values=pictures.flip(0), past_key_values=cache, **settings)
    cache.reset()
    again = model.generate(input_ids=IDS, pixel_values=pictures, past_key_values=cache, **settings)
    assert torch.equal(first, again)
