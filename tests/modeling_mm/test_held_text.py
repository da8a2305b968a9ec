"""generate() goes on with a cache only where text, padding, rows, context and weights are those that filled it."""

# Fixtures build models whose types pyright cannot follow.

import copy
import pickle

import pytest
import torch
from transformers import DynamicCache, StaticCache

IDS = torch.tensor([[1, 5, 6], [1, 7, 8], [1, 9, 3]])
SETTINGS = {"max_new_tokens": 3, "min_new_tokens": 3, "return_dict_in_generate": True}
ONE_MORE = torch.full((3, 1), 7)


@pytest.fixture(params=["cross_attention", "merged"])
def filled(tiny_model, pictures, request):
    """A model, the texts that go on, and a function: their cache, a new copy each time."""
    model = tiny_model(fusion_type=request.param)
    first = model.generate(input_ids=IDS, pixel_values=pictures, **SETTINGS)
    return model, torch.cat([first.sequences, ONE_MORE], 1), lambda: copy.deepcopy(first.past_key_values)


def go_on(model, ids, cache, **given):
    return model.generate(**{"input_ids": ids, "past_key_values": cache, **SETTINGS, **given})


def refused(model, ids, cache, words="past_key_values", **given):
    with pytest.raises(ValueError, match=words):
        go_on(model, ids, cache, **given)


def test_the_text_that_was_read_goes_on_as_if_there_were_no_cache(filled, pictures):
    model, ids, cache = filled
    whole = model.generate(input_ids=ids, pixel_values=pictures, output_logits=True, **SETTINGS)
    again = {"pixel_values": pictures}
    new = {"attention_mask": torch.ones_like(ids)}
    embeds = model.get_input_embeddings()(ids)
    ways = [
        go_on(model, ids, cache(), output_logits=True),
        go_on(model, ids, cache(), output_logits=True, **again),
        go_on(model, ids, cache(), output_logits=True, prefill_chunk_size=2),
        go_on(model, ids[:, cache().get_seq_length() :], cache(), output_logits=True, **new),
        go_on(model, None, cache(), output_logits=True, inputs_embeds=embeds),
    ]
    for found in ways:
        for one, other in zip(found.logits, whole.logits, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_another_text_other_rows_and_another_padding_are_refused(filled):
    model, ids, cache = filled
    other, mask = ids.clone(), torch.ones_like(ids)
    other[1, 2], mask[0, 0] = 11, 0
    embed = model.get_input_embeddings()
    refused(model, other, cache(), "another text")
    refused(model, other, cache(), "another text", prefill_chunk_size=2)
    refused(model, None, cache(), "another text", inputs_embeds=embed(other))
    refused(model, ids[[1, 0, 2]], cache(), "another text")
    refused(model, ids[:2], cache(), "rows")
    refused(model, ids, cache(), "rows", num_return_sequences=2, do_sample=True)
    refused(model, ids, cache(), "padding", attention_mask=mask)
    refused(model, ids[:, -1:], cache(), "padding", attention_mask=mask)
    for length in (2, cache().get_seq_length()):
        refused(model, ids[:, :length], cache(), "tokens were given")


def test_what_is_padding_on_both_sides_may_differ(tiny_model, pictures):
    model, mask = tiny_model(), torch.ones_like(IDS)
    mask[0, 0] = 0
    given = {"attention_mask": mask, "pixel_values": pictures}
    ids = IDS.clone()
    ids[0] = torch.tensor([0, 1, 6])
    first = model.generate(input_ids=ids, **given, **SETTINGS)
    whole = torch.cat([first.sequences, ONE_MORE], 1)
    given["attention_mask"] = torch.cat([mask, torch.ones(3, 4, dtype=torch.long)], 1)
    expected = model.generate(input_ids=whole, **given, **SETTINGS).sequences
    whole[0, 0] = 17
    found = go_on(model, whole, first.past_key_values, **given).sequences
    assert torch.equal(found[:, 1:], expected[:, 1:])


def test_a_text_written_over_in_its_own_tensor_is_another_text(tiny_model, pictures):
    model, ids = tiny_model(), torch.cat([IDS, ONE_MORE], 1)
    with torch.no_grad():
        cache = model(input_ids=ids, pixel_values=pictures, use_cache=True).past_key_values
    ids[2, 1] = 4
    refused(model, torch.cat([ids, ONE_MORE], 1), cache, "another text")


@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_the_cache_of_beams_goes_on_only_with_the_texts_of_its_rows(tiny_model, pictures, settings):
    model = tiny_model()
    first = model.generate(input_ids=IDS, pixel_values=pictures, **SETTINGS, **settings)
    cache = first.past_key_values
    refused(model, torch.cat([IDS, first.sequences[:: len(first.sequences) // 3][:, -1:]], 1), cache)
    refused(model, ONE_MORE, cache, "beams", attention_mask=torch.ones(3, 6, dtype=torch.long), **settings)


def test_the_cache_of_another_model_or_of_other_weights_is_refused(filled, tiny_model):
    model, ids, cache = filled
    other = tiny_model(fusion_type=model.config.fusion_type)
    refused(other, ids, cache(), "another model")
    go_on(model, ids, cache())
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).mul_(1.5)
    refused(model, ids, cache(), "weights")


def test_adapters_are_weights(tiny_model, pictures):
    peft = pytest.importorskip("peft")
    model = tiny_model()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    first = adapted.generate(input_ids=IDS, pixel_values=pictures, **SETTINGS)
    ids = torch.cat([first.sequences, ONE_MORE], 1)
    go_on(adapted, ids, copy.deepcopy(first.past_key_values))
    with adapted.disable_adapter():
        refused(adapted, ids, first.past_key_values, "adapters")
    adapted.merge_adapter()
    refused(adapted, ids, first.past_key_values, "adapters")


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_cache_of_ones_own_keeps_what_it_was_filled_with(tiny_model, pictures, kind):
    model = tiny_model()
    config = model.config.text_config
    cache = DynamicCache() if kind == "dynamic" else StaticCache(config=config, max_cache_len=16)
    first = go_on(model, IDS, cache, pixel_values=pictures)
    ids = torch.cat([first.sequences, ONE_MORE], 1)
    other = ids.clone()
    other[1, 2] = 11
    refused(model, other, cache, "another text", pixel_values=pictures)
    refused(model, ids, cache, "another context", pixel_values=pictures + 1)
    refused(model, ids, cache, "another context")
    found = go_on(model, ids, cache, pixel_values=pictures).sequences
    assert torch.equal(found, model.generate(input_ids=ids, pixel_values=pictures, **SETTINGS).sequences)


def test_a_static_cache_that_was_reset_takes_any_text(tiny_model, pictures):
    model = tiny_model()
    cache = StaticCache(config=model.config.text_config, max_cache_len=16)
    go_on(model, IDS, cache, pixel_values=pictures)
    cache.reset()
    other = torch.cat([IDS.flip(1), ONE_MORE], 1)
    found = go_on(model, other, cache, pixel_values=pictures + 1).sequences
    assert torch.equal(found, model.generate(input_ids=other, pixel_values=pictures + 1, **SETTINGS).sequences)


def test_a_cropped_cache_goes_on_from_where_the_texts_still_agree(filled, pictures):
    model, ids, cache = filled
    cropped = cache()
    cropped.crop(-3)
    other = ids.clone()
    other[:, 4] = 11
    found = go_on(model, other, cropped).sequences
    assert torch.equal(found, model.generate(input_ids=other, pixel_values=pictures, **SETTINGS).sequences)


def test_a_cache_from_a_file_is_compared_by_its_text(tiny_model, pictures):
    model = tiny_model()
    first = model.generate(input_ids=IDS, pixel_values=pictures, **SETTINGS)
    ids = torch.cat([first.sequences, ONE_MORE], 1)
    other = ids.clone()
    other[1, 2] = 11
    kept = pickle.dumps(first.past_key_values)
    refused(model, other, pickle.loads(kept), "another text")
    go_on(model, ids, pickle.loads(kept))


def test_a_cache_of_which_nothing_is_known_is_told(tiny_model, pictures):
    model = tiny_model()
    first = model.generate(input_ids=IDS, pixel_values=pictures, **SETTINGS)
    bare = DynamicCache([(layer.keys, layer.values) for layer in first.past_key_values.self_attention_cache.layers])
    with pytest.warns(RuntimeWarning, match="nothing is known"):
        go_on(model, torch.cat([first.sequences, ONE_MORE], 1), bare, pixel_values=pictures)


def test_assisted_generation_takes_no_cache_that_holds_text_and_fills_one(tiny_model, pictures):
    model = tiny_model()
    assisted = {"prompt_lookup_num_tokens": 2}
    first = model.generate(input_ids=IDS[:1], pixel_values=pictures[:1], **SETTINGS, **assisted)
    ids = torch.cat([first.sequences, ONE_MORE[:1]], 1)
    refused(model, ids, copy.deepcopy(first.past_key_values), "assisted", **assisted)
    whole = model.generate(input_ids=ids, pixel_values=pictures[:1], **SETTINGS)
    assert torch.equal(go_on(model, ids, first.past_key_values).sequences, whole.sequences)


def test_check_inputs_false_does_not_look(tiny_model, pictures):
    model = tiny_model(check_inputs=False)
    first = model.generate(input_ids=IDS, pixel_values=pictures, **SETTINGS)
    go_on(model, torch.cat([IDS.flip(1), first.sequences], 1), first.past_key_values)
