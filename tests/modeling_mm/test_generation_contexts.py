"""generate() over every kind of context: a row is written as if it were alone, whatever the cache and the search."""

# Fixtures build models whose types pyright cannot follow.

import copy

import pytest
import torch
from transformers import CompileConfig, DynamicCache, StaticCache

from mm import MMCache, MMModel

ALL = {"modalities": ["image", "video", "audio"], "audio_config": "ast", "max_frames": 3, "modality_embeddings": True}
MERGED = {"fusion_type": "merged"}
BOTH_WAYS = {**MERGED, "fusion_mask": "bidirectional"}
MODELS = {
    "cross inside": ("inside", {}),
    "cross own": ("own", {}),
    "cross llama": ("llama", {}),
    "merged prefix": ("inside", MERGED),
    "merged causal rope": (
        "inside",
        {**MERGED, "fusion_mask": "causal", "fusion_embedding_norm": True,
         "text_config": {"position_embedding_type": "rope", "num_key_value_heads": 1}},
    ),
    "encoder own": ("inside", {"text_encoder_config": "tiny"}),
    "encoder shared": ("inside", {"share_text_encoder": True}),
    "encoder merged": ("inside", {"text_encoder_config": "tiny", **BOTH_WAYS}),
    "encoder co-attention": ("inside", {"text_encoder_config": "tiny", "fusion_type": "co_attention"}),
    "encoder gated": ("inside", {"share_text_encoder": True, "fusion_type": "gated"}),
}  # fmt: skip
MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "returns": {"num_beams": 3, "num_return_sequences": 2},
    "static": {"cache_implementation": "static"},
    "static beams": {"cache_implementation": "static", "num_beams": 2},
    "no cache": {"use_cache": False, "num_beams": 2},
}
PROMPTS = torch.tensor([[0, 1, 5], [1, 7, 8], [0, 0, 1], [1, 3, 3], [0, 1, 9]])
PRESENT = torch.tensor([[1, 1], [0, 1], [0, 0]]).bool()
FRAMES = torch.tensor([[[1, 1, 0], [0, 0, 0]], [[1, 1, 1], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
QUESTIONS = torch.tensor([[1, 4, 5, 2], [0, 1, 9, 2], [1, 8, 7, 2]])
INDICES = {"unsorted, ragged": [1, 0, 1, 2, 1], "sorted": [0, 0, 1, 2, 2], "one unread": [2, 0, 2, 0, 0]}


def without_end(model):
    model.generation_config.eos_token_id = None
    return model


def context_inputs(name, pictures, videos, clips, rows=slice(None)) -> dict[str, torch.Tensor]:
    """The media (and questions) of some contexts; absent items stay as masked slots."""
    inputs = {
        "pixel_values": pictures[rows],
        "pixel_attention_mask": PRESENT[rows],
        "pixel_values_videos": videos[rows],
        "video_attention_mask": FRAMES[rows],
        "input_features": clips("ast")[rows],
        "input_features_mask": PRESENT[rows],
    }
    if name.startswith("encoder"):
        inputs["context_input_ids"], inputs["context_attention_mask"] = QUESTIONS[rows], QUESTIONS[rows].ne(0).long()
    return inputs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_each_row_is_written_as_if_it_were_alone(tiny_model, pictures, videos, clips, name, mode):
    text, fields = copy.deepcopy(MODELS[name])
    model = without_end(tiny_model("vit", text, **ALL, **fields))
    settings = {"max_new_tokens": 4, "do_sample": False, **MODES[mode]}
    index = INDICES[list(INDICES)[list(MODES).index(mode) % 3]]
    batch = model.generate(
        input_ids=PROMPTS,
        attention_mask=PROMPTS.ne(0).long(),
        context_index=torch.tensor(index),
        **context_inputs(name, pictures, videos, clips),
        **settings,
    )
    count = settings.get("num_return_sequences", 1)
    for row, context in enumerate(index):
        prompt = PROMPTS[row][PROMPTS[row].ne(0)][None]
        media = context_inputs(name, pictures, videos, clips, slice(context, context + 1))
        alone = model.generate(input_ids=prompt, **media, **settings)
        assert torch.equal(batch[count * row : count * (row + 1), -4:], alone[:, -4:]), row


@pytest.mark.parametrize("name", ["cross inside", "merged prefix", "encoder own"])
def test_pictures_change_what_is_written_and_empty_contexts_change_nothing(tiny_model, pictures, videos, clips, name):
    text, fields = copy.deepcopy(MODELS[name])
    model = without_end(tiny_model("vit", text, **ALL, **fields))
    settings = {"max_new_tokens": 6, "do_sample": False}
    media = context_inputs(name, pictures, videos, clips)
    questions = {key: value for key, value in media.items() if key.startswith("context")}
    blind = model.generate(input_ids=PROMPTS[[1, 3, 1]], **questions, **settings)
    nothing = {key: torch.zeros_like(v) if "mask" in key and "context" not in key else v for key, v in media.items()}
    assert torch.equal(model.generate(input_ids=PROMPTS[[1, 3, 1]], **nothing, **settings), blind)
    seen = model.generate(input_ids=PROMPTS[[1, 3, 1]], **media, **settings)
    assert torch.equal(seen[2], blind[2]) and not torch.equal(seen, blind)


MERGED_KINDS = ["merged prefix", "merged causal rope"]


@pytest.mark.parametrize("name", MERGED_KINDS)
@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"cache_implementation": "static", "num_beams": 3}], ids=str)
def test_keys_and_values_of_merged_media_are_kept_once_per_context(
    tiny_model, pictures, videos, clips, name, settings
):
    text, fields = copy.deepcopy(MODELS[name])
    model = without_end(tiny_model("vit", text, **ALL, **fields))
    output = model.generate(
        input_ids=PROMPTS[[1, 3]].repeat(3, 1),
        **context_inputs(name, pictures, videos, clips),
        **settings,
        max_new_tokens=3,
        do_sample=False,
        return_dict_in_generate=True,
    )
    cache = output.past_key_values
    media = cache.cross_attention_cache.layers[0].keys
    assert media.shape[0] == 3 and cache.self_attention_cache.layers[0].keys.shape[0] == 6 * 3
    assert int(cache.get_seq_length()) == 3 + 2 and cache.prefix_length == media.shape[2]


@pytest.mark.parametrize("num_beams", [1, 5])
def test_no_step_copies_what_the_prefix_holds(tiny_model, pictures, num_beams):
    """Its keys and values are the same storage in every step, whatever the beams, and take the bytes of the contexts:
    1 / num_beams of those of a cache in which every beam has a row."""
    model = without_end(tiny_model(text="inside", **MERGED))
    places, sizes = set(), set()
    forward = model.model.language_model.forward

    def seen(*args, **kwargs):
        output = forward(*args, **kwargs)
        cache = kwargs["past_key_values"]
        for layer in cache.cross_attention_cache.layers:
            for held in (layer.keys, layer.values):
                places.add((id(layer), held.data_ptr()))
                sizes.add((held.untyped_storage().nbytes(), held.shape[0]))
        return output

    model.model.language_model.forward = seen
    inputs = {"pixel_values": pictures[:2], "input_ids": PROMPTS[1:3]}
    model.generate(**inputs, max_new_tokens=6, num_beams=num_beams)
    layers = model.config.text_config.num_hidden_layers
    assert len(places) == 2 * layers
    ((taken, rows),) = sizes
    tokens = model.model.encode_context(pixel_values=pictures[:2]).last_hidden_state.shape[1]
    config = model.config.text_config
    assert rows == 2 and taken == 2 * config.num_key_value_heads * tokens * config.head_dim * 8  # float64


@pytest.mark.parametrize("name", MERGED_KINDS)
def test_with_a_cache_merged_text_goes_on_as_without(tiny_model, pictures, videos, clips, name):
    text, fields = copy.deepcopy(MODELS[name])
    model = tiny_model("vit", text, **ALL, **fields)
    ids, mask = PROMPTS, PROMPTS.ne(0).long()
    media = {**context_inputs(name, pictures, videos, clips), "context_index": torch.tensor([1, 0, 1, 2, 1])}
    whole = model(input_ids=ids, attention_mask=mask, **media, use_cache=False).logits
    decoder = model.config.text_config
    static = MMCache(StaticCache(decoder, max_cache_len=8), StaticCache(decoder, max_cache_len=64))
    for first in (DynamicCache(config=decoder), None, static):
        output = model(
            input_ids=ids[:, :2], attention_mask=mask[:, :2], **media, past_key_values=first, use_cache=True
        )
        steps = [output.logits]
        output = model(input_ids=ids[:, 2:], attention_mask=mask, past_key_values=output.past_key_values)
        steps.append(output.logits)
        real = mask.bool()
        torch.testing.assert_close(torch.cat(steps, dim=1)[real], whole[real], rtol=1e-12, atol=1e-12)


def test_states_of_the_text_alone_are_handed_out_beside_merged_media(tiny_model, pictures):
    model = tiny_model(attention="eager", **MERGED)
    output = model(
        input_ids=PROMPTS[[1, 3, 1]], pixel_values=pictures, output_hidden_states=True, output_attentions=True
    )
    assert [states.shape for states in output.hidden_states] == [(3, 3, 32)] * 3
    assert [weights.shape for weights in output.attentions] == [(3, 2, 3, 12 + 3)] * 2
    assert output.context_hidden_states.shape == (3, 12, 32)


@pytest.mark.parametrize("name", MERGED_KINDS)
@pytest.mark.parametrize(
    "settings",
    [{"prompt_lookup_num_tokens": 2}, {"prefill_chunk_size": 2}, {"assistant": True}, {"ready": True}],
    ids=str,
)
def test_other_ways_to_write_give_the_same_merged_text(tiny_model, pictures, videos, clips, name, settings):
    text, fields = copy.deepcopy(MODELS[name])
    model = without_end(tiny_model("vit", text, **ALL, **fields))
    ids = torch.tensor([[1, 7, 8, 7, 8]])
    media = context_inputs(name, pictures, videos, clips, slice(1, 2))
    base = {"max_new_tokens": 5, "do_sample": False}
    expected = model.generate(input_ids=ids, **media, **base)
    settings = dict(settings)
    if settings.pop("assistant", False):
        settings["assistant_model"] = copy.deepcopy(model)
    if settings.pop("ready", False):
        media = {"encoder_outputs": model.encode_context(**media)}
    assert torch.equal(model.generate(input_ids=ids, **media, **base, **settings), expected)


def test_embeddings_may_be_the_prompt_of_merged_text(tiny_model, pictures):
    model = without_end(tiny_model(**MERGED))
    expected = model.generate(input_ids=PROMPTS[[1, 3, 1]], pixel_values=pictures, max_new_tokens=4)
    embeds = model.get_input_embeddings()(PROMPTS[[1, 3, 1]])
    got = model.generate(inputs_embeds=embeds, pixel_values=pictures, max_new_tokens=4)
    assert torch.equal(got, expected[:, 3:])


@pytest.mark.parametrize("name", ["merged prefix", "encoder own"])
def test_a_cache_may_be_used_again_for_the_same_media_alone(tiny_model, pictures, videos, clips, name):
    text, fields = copy.deepcopy(MODELS[name])
    model = without_end(tiny_model("vit", text, **ALL, **fields))
    ids, media = PROMPTS[[1, 3, 1]], context_inputs(name, pictures, videos, clips)
    settings = {"do_sample": False, "return_dict_in_generate": True}
    first = model.generate(input_ids=ids, **media, max_new_tokens=3, **settings)
    longer = model.generate(
        input_ids=first.sequences, **media, past_key_values=first.past_key_values, max_new_tokens=2, **settings
    )
    whole = model.generate(input_ids=ids, **media, max_new_tokens=5, **settings)
    assert torch.equal(longer.sequences, whole.sequences)
    other = {**media, "pixel_values": pictures.flip(0)}
    with pytest.raises(ValueError, match="holds the keys and values of another context"):
        model.generate(input_ids=whole.sequences, **other, past_key_values=longer.past_key_values, max_new_tokens=1)
    longer.past_key_values.reset()
    assert longer.past_key_values.prefix_length == 0


def test_without_a_prompt_each_question_gets_an_answer(tiny_model, pictures):
    model = without_end(tiny_model(text_encoder_config="tiny"))
    asked = QUESTIONS[[0, 2, 0, 2]]
    index = torch.tensor([2, 0, 1, 1])
    answers = model.generate(pixel_values=pictures, context_input_ids=asked, media_index=index, max_new_tokens=4)
    assert answers.shape == (4, 5) and (answers[:, 0] == 1).all()
    for row in range(4):
        single = model.generate(pixel_values=pictures[index[row : row + 1]], context_input_ids=asked[row : row + 1],
                                max_new_tokens=4)  # fmt: skip
        assert torch.equal(answers[row], single[0])


def test_media_that_see_the_text_cannot_be_cached(tiny_config, tiny_model, pictures):
    model = tiny_model(cls=MMModel, **BOTH_WAYS, text_config={"is_causal": False})
    model(input_ids=PROMPTS[[1, 3, 1]], pixel_values=pictures)
    with pytest.raises(ValueError, match="fusion_mask='bidirectional' lets media see the text"):
        model(input_ids=PROMPTS[[1, 3, 1]], pixel_values=pictures, use_cache=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["merged prefix", "merged causal rope", "encoder own", "encoder merged", "ranges"])
def test_a_compiled_decode_is_one_graph_and_writes_the_same(tiny_model, pictures, videos, clips, name):
    text, fields = copy.deepcopy(MODELS.get(name, MODELS["cross own"]))
    model = without_end(tiny_model("vit", text, **ALL, **fields))
    media = context_inputs(name, pictures, videos, clips)
    if name == "ranges":
        media["context_ranges"] = torch.tensor([[[0, 3]], [[6, 40]], [[0, 0]]])
    inputs = {"input_ids": PROMPTS[:3], "attention_mask": PROMPTS[:3].ne(0).long(), **media}
    settings = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
    compiling = CompileConfig(backend="eager", fullgraph=True, dynamic=False)
    compiling._compile_all_devices = True  # generate() compiles on accelerators alone unless told
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    expected = model.generate(**inputs, **settings)
    assert torch.equal(model.generate(**inputs, **settings, compile_config=compiling), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
