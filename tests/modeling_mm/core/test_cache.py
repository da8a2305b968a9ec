"""MMCache: self-attention per row, cross-attention per context; rows come and go, contexts stay."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

from mm import MMCache, MMModel, MMTextModel
from mm.modeling_mm.core.cache import held_text

IDS = torch.tensor([[1, 5, 6], [1, 7, 8], [1, 9, 3]])
INDEX = torch.tensor([1, 0, 1])


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model()


@pytest.fixture(scope="module")
def pixels():
    torch.manual_seed(0)
    return torch.randn(2, 3, 16, 16, dtype=torch.float64)


@pytest.fixture
def filled(model, pixels):
    """A cache after a prefill of three rows on two contexts."""
    return model(input_ids=IDS, pixel_values=pixels, context_index=INDEX).past_key_values


def cross_states(cache):
    return [state for layer in cache.cross_attention_cache.layers for state in (layer.keys, layer.values)]


def self_states(cache):
    return [state for layer in cache.self_attention_cache.layers for state in (layer.keys, layer.values)]


def test_the_halves_are_per_row_and_per_context(filled):
    assert filled.holds_context and filled.num_rows == 3 and filled.get_seq_length() == 3
    assert {tuple(state.shape) for state in self_states(filled)} == {(3, 2, 3, 16)}
    assert {tuple(state.shape) for state in cross_states(filled)} == {(2, 2, 6, 16)}


CHANGES = {
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([1, 1, 0])), [1, 1, 0], 3),
    "crop": (lambda cache: cache.crop(-1), [0, 1, 2], 2),
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2], 3),
    "select": (lambda cache: cache.batch_select_indices(torch.tensor([2, 0])), [2, 0], 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changing_rows_leaves_the_cross_states_alone(filled, change):
    act, rows, length = CHANGES[change]
    cross, own = cross_states(filled), self_states(filled)
    act(filled)
    assert all(now is before for now, before in zip(cross_states(filled), cross, strict=True))
    for now, before in zip(self_states(filled), own, strict=True):
        assert torch.equal(now, before[rows][:, :, :length])


@pytest.mark.parametrize("change", ["repeat", "select"])
def test_decoding_goes_on_after_rows_were_repeated_or_selected(model, pixels, filled, change):
    act, rows, _ = CHANGES[change]
    act(filled)
    step = torch.tensor([[4]] * len(rows))
    expected = model(input_ids=torch.cat([IDS[rows], step], 1), pixel_values=pixels, context_index=INDEX[rows])
    got = model(input_ids=step, past_key_values=filled)
    torch.testing.assert_close(got.logits[:, -1], expected.logits[:, -1], rtol=0, atol=1e-12)


def test_a_decode_step_needs_the_cache_alone(model, pixels, filled):
    step = torch.tensor([[4], [5], [6]])
    expected = model(input_ids=torch.cat([IDS, step], 1), pixel_values=pixels, context_index=INDEX).logits[:, -1:]
    torch.testing.assert_close(model(input_ids=step, past_key_values=filled).logits, expected, rtol=0, atol=1e-12)


def test_encoder_outputs_are_not_read_again_once_the_cache_holds_them(model, pixels):
    context = model.encode_context(pixels)
    first = model(input_ids=IDS[:2], encoder_outputs=context)
    wrong = torch.full_like(context.last_hidden_state, 7.0)
    step = torch.tensor([[4], [5]])
    second = model(input_ids=step, encoder_outputs=wrong, past_key_values=first.past_key_values)
    expected = model(input_ids=torch.cat([IDS[:2], step], 1), encoder_outputs=context)
    torch.testing.assert_close(second.logits, expected.logits[:, -1:], rtol=0, atol=1e-12)


def test_the_projections_of_the_context_run_once(model, pixels):
    calls = []
    projections = [layer.cross_attn.k_proj for layer in model.model.language_model.layers]
    handles = [p.register_forward_hook(lambda m, i, o: calls.append(m)) for p in projections]
    cache = model(input_ids=IDS[:2], pixel_values=pixels).past_key_values
    for _ in range(3):
        model(input_ids=IDS[:2, :1], past_key_values=cache)
    for handle in handles:
        handle.remove()
    assert len(calls) == len(projections)


def user_caches(config):
    text = config.text_config
    return {
        "DynamicCache": DynamicCache(config=text),
        "StaticCache": StaticCache(config=text, max_cache_len=16),
        "EncoderDecoderCache": EncoderDecoderCache(DynamicCache(), DynamicCache()),
        "MMCache": MMCache(DynamicCache(), DynamicCache()),
    }


@pytest.mark.parametrize("kind", ["DynamicCache", "StaticCache", "EncoderDecoderCache", "MMCache"])
@pytest.mark.parametrize("beams", [1, 2])
def test_any_cache_of_transformers_may_be_passed(model, pixels, kind, beams):
    settings = {"input_ids": IDS, "pixel_values": pixels, "context_index": INDEX, "max_new_tokens": 4}
    expected = model.generate(**settings, num_beams=beams)
    cache = user_caches(model.config)[kind]
    output = model.generate(**settings, num_beams=beams, past_key_values=cache, return_dict_in_generate=True)
    assert torch.equal(output.sequences, expected)
    assert isinstance(output.past_key_values, MMCache)
    held = output.past_key_values.self_attention_cache
    assert held is (cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache)


def test_wrap_keeps_an_mm_cache_and_refuses_what_is_no_cache():
    cache = MMCache(DynamicCache(), DynamicCache())
    assert MMCache.wrap(cache) is cache
    with pytest.raises(TypeError, match="past_key_values must be a transformers Cache; got tuple"):
        MMCache.wrap(((torch.ones(1),),))


def test_a_filled_encoder_decoder_cache_is_refused_as_it_knows_no_rows(model, pixels):
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    model(input_ids=IDS[:2], pixel_values=pixels, past_key_values=cache)
    with pytest.raises(ValueError, match="continue with the past_key_values that the model returned"):
        model(input_ids=IDS[:2, :1], past_key_values=cache)


@pytest.mark.parametrize("kind", ["DynamicCache", "StaticCache"])
def test_reset_makes_a_cache_as_good_as_new(model, pixels, kind):
    cache = MMCache.for_generation(user_caches(model.config)[kind], model.config.text_config, 6)
    model.generate(input_ids=IDS[:2], pixel_values=pixels, max_new_tokens=3, past_key_values=cache)
    cache.reset()
    assert not cache.holds_context and cache.rows is None and held_text(cache).fingerprint is None
    others = pixels.flip(0)
    got = model.generate(input_ids=IDS[:2], pixel_values=others, max_new_tokens=3, past_key_values=cache)
    assert torch.equal(got, model.generate(input_ids=IDS[:2], pixel_values=others, max_new_tokens=3))


def test_generation_goes_on_from_a_filled_cache_with_longer_ids(model, pixels):
    settings = {"pixel_values": pixels, "do_sample": False, "min_new_tokens": 3, "max_new_tokens": 3}
    cache = MMCache(DynamicCache(), DynamicCache())
    first = model.generate(input_ids=IDS[:2], past_key_values=cache, **settings)
    longer = torch.cat([first, torch.tensor([[4, 9], [5, 9]])], 1)
    for media in ({"pixel_values": pixels}, {"pixel_values": None}):  # the same pictures again, or none
        cache = MMCache(DynamicCache(), DynamicCache())
        model.generate(input_ids=IDS[:2], past_key_values=cache, **settings)
        second = model.generate(input_ids=longer, past_key_values=cache, **{**settings, **media})
        assert torch.equal(second, model.generate(input_ids=longer, **settings))


OTHERS = {
    "another picture": lambda pixels: pixels + 1,
    "the same in another order": lambda pixels: pixels.flip(0),
    "mirrored": lambda pixels: pixels.flip(-1),
    "fewer": lambda pixels: pixels[:1],
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_picture_with_a_filled_cache_is_refused(model, pixels, other):
    cache = MMCache(DynamicCache(), DynamicCache())
    first = model.generate(input_ids=IDS[:2], pixel_values=pixels, max_new_tokens=2, past_key_values=cache)
    with pytest.raises(ValueError, match=r"another context; call past_key_values.reset\(\)"):
        model.generate(input_ids=first, pixel_values=OTHERS[other](pixels), max_new_tokens=2, past_key_values=cache)


REFUSED = {
    "other rows": ({"input_ids": IDS[:2, :1]}, r"holds 3 rows, but 2 were given.*reset\(\)"),
    "pictures": ({"pixel_values": torch.ones(2, 3, 16, 16)}, r"pixel_values would not be read.*reset\(\)"),
    "other contexts": ({"encoder_outputs": torch.ones(1, 6, 32)}, r"holds 2 contexts, but .* has 1.*reset\(\)"),
    "other index": ({"context_index": INDEX.flip(0) * 0}, r"another context_index.*reset\(\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_forward_refuses_what_a_filled_cache_would_not_read(model, filled, name):
    inputs, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": IDS[:, :1], "past_key_values": filled, **inputs})


def test_the_same_index_may_be_given_again(model, filled):
    model(input_ids=IDS[:, :1], past_key_values=filled, context_index=INDEX.clone())


@pytest.mark.parametrize("cls", [MMModel, MMTextModel])
def test_another_row_count_is_refused_without_a_context_too(tiny_model, tiny_config, cls):
    model = tiny_model().model if cls is MMModel else tiny_model().model.language_model
    cache = model(input_ids=IDS, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"holds 3 rows, but 2 were given"):
        model(input_ids=IDS[:2, :1], past_key_values=cache)


def test_a_context_may_join_a_cache_of_text(model, pixels):
    """The text before it did not see it; from then on every row does."""
    context = model.encode_context(pixels)
    cache = model(input_ids=IDS[:2]).past_key_values
    output = model(input_ids=IDS[:2, 1:], encoder_outputs=context, past_key_values=cache)
    assert output.past_key_values is cache and cache.holds_context and cache.num_rows == 2
