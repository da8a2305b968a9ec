"""MMTextModel: the stack written out once more, padding, positions, causality, caches and pooling."""

import pytest
import torch

from comparing import close
from mm import MMTextConfig, MMTextModel
from mm.modeling_mm.core.context_rows import MMReading, MMRows

TEXTS = ["inside", "own", "llama"]
IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3]])


@pytest.fixture
def stack(tiny_config, visible):
    """`stack(text, **fields)`: a decoder in fp64."""

    def build(text="inside", attention="sdpa", **fields) -> MMTextModel:
        torch.manual_seed(0)
        config = MMTextConfig(**{**tiny_config("vit", text).text_config.to_dict(), **fields})
        return visible(MMTextModel._from_config(config, attn_implementation=attention)).double().eval()

    return build


def memory_of(model, contexts=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(contexts, 5, model.config.context_width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("text", TEXTS)
def test_the_stack_is_embeddings_then_layers_then_norm(stack, text):
    model = stack(text, attention="eager")
    memory, length = memory_of(model), IDS.shape[1]
    states, rotary = model.embed_tokens(IDS), None
    if model.embed_positions is not None:
        states = states + model.embed_positions.weight[:length]
    if model.rotary is not None:
        rotary = model.rotary(torch.arange(length)[None], states.dtype)
    if model.embed_token_types is not None:
        states = states + model.embed_token_types.weight[0]
    states = model.embed_norm(states)
    future = torch.ones(length, length).triu(1).bool()
    mask = torch.zeros(1, 1, length, length, dtype=torch.float64).masked_fill(future, torch.finfo(torch.float64).min)
    for layer in model.layers:
        reading = MMReading(MMRows(2, 2))
        states = layer(states, memory, reading, attention_mask=mask, is_causal=True, rotary=rotary)
    output = model(IDS, encoder_hidden_states=memory)
    torch.testing.assert_close(output.last_hidden_state, model.norm(states), rtol=0, atol=1e-12)
    assert (model.norm(states) == states).all() == (model.config.final_norm == "none")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("with_context", [False, True])
def test_padding_on_either_side_changes_no_real_token(stack, text, attention, with_context):
    model = stack(text, attention)
    context = {"encoder_hidden_states": memory_of(model, 1)} if with_context else {}
    bare = model(IDS[:1], **context)
    for before, after in ((3, 0), (0, 3), (2, 1)):
        padded = torch.nn.functional.pad(IDS[:1], (before, after), value=4)
        mask = torch.nn.functional.pad(torch.ones_like(IDS[:1]), (before, after))
        output = model(padded, attention_mask=mask, **context)
        states = output.last_hidden_state[:, before : before + 4]
        torch.testing.assert_close(states, bare.last_hidden_state, rtol=0, atol=1e-12)
        torch.testing.assert_close(output.pooler_output, bare.pooler_output, rtol=0, atol=1e-12)


@pytest.mark.parametrize("text", TEXTS)
def test_a_causal_stack_does_not_see_the_future_and_a_bidirectional_one_does(stack, text):
    model = stack(text)
    other = IDS.clone()
    other[:, -1] = 11
    causal = [model(ids).last_hidden_state[:, :-1] for ids in (IDS, other)]
    torch.testing.assert_close(*causal, rtol=0, atol=1e-12)
    both_ways = [model(ids, is_causal=False).last_hidden_state[:, :-1] for ids in (IDS, other)]
    assert (both_ways[0] - both_ways[1]).abs().max() > 1e-3
    encoder = stack(text, is_causal=False)
    close(encoder(IDS).last_hidden_state[:, :-1], both_ways[0])
    close(encoder(IDS, is_causal=True).last_hidden_state[:, :-1], causal[0])
    close(encoder(IDS, is_causal=None).last_hidden_state[:, :-1], both_ways[0])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_causal_stack_called_both_ways_is_the_encoder_under_padding_and_context_too(stack, text, attention):
    decoder, encoder = stack(text, attention), stack(text, attention, is_causal=False)
    inputs = {"attention_mask": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]]), "use_cache": False}
    for context in ({}, {"encoder_hidden_states": memory_of(decoder)}):
        called = decoder(IDS, is_causal=False, **inputs, **context).last_hidden_state
        close(called, encoder(IDS, **inputs, **context).last_hidden_state)
        assert not torch.allclose(called, decoder(IDS, **inputs, **context).last_hidden_state)
    assert decoder.config.is_causal  # as before the calls


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("padded", [False, True])
def test_token_by_token_gives_what_one_call_gives(stack, text, padded):
    model = stack(text)
    memory = memory_of(model)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]) if padded else torch.ones_like(IDS)
    whole = model(IDS, attention_mask=mask, encoder_hidden_states=memory).last_hidden_state
    cache, steps = None, []
    for step in range(4):
        output = model(
            IDS[:, step : step + 1],
            attention_mask=mask[:, : step + 1],
            encoder_hidden_states=memory,
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        steps.append(output.last_hidden_state)
    real = mask.bool()
    torch.testing.assert_close(torch.cat(steps, 1)[real], whole[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pad, trained", [(0, False), (1, True), (2, True), (None, True)])
def test_the_padding_s_row_is_trained_where_the_padding_is_an_end_of_texts_too(stack, pad, trained):
    model = stack(pad_token_id=pad)
    model(torch.tensor([[1, pad or 0, 2]])).last_hidden_state.sum().backward()
    assert bool(model.embed_tokens.weight.grad[pad or 0].any()) == trained


def test_embeddings_may_stand_for_ids_and_positions_may_be_given(stack):
    model = stack()
    expected = model(IDS).last_hidden_state
    embeds = model.embed_tokens(IDS)
    assert torch.equal(model(inputs_embeds=embeds).last_hidden_state, expected)
    for positions in (torch.arange(4)[None], torch.arange(4).expand(2, -1)):
        assert torch.equal(model(IDS, position_ids=positions).last_hidden_state, expected)
    assert not torch.equal(model(IDS, position_ids=torch.arange(4)[None] + 1).last_hidden_state, expected)


def test_token_types_count_where_there_are_any_and_are_ignored_elsewhere(stack):
    typed, plain = stack("inside"), stack("own")
    zeros, ones = torch.zeros_like(IDS), torch.ones_like(IDS)
    close(typed(IDS, token_type_ids=zeros).last_hidden_state, typed(IDS).last_hidden_state)
    assert not torch.equal(typed(IDS, token_type_ids=ones).last_hidden_state, typed(IDS).last_hidden_state)
    assert torch.equal(plain(IDS, token_type_ids=ones).last_hidden_state, plain(IDS).last_hidden_state)


def test_without_positions_the_order_shows_through_the_causal_mask_alone(stack):
    model = stack(position_embedding_type="none", is_causal=False)
    swapped = model(IDS[:, [1, 0, 2, 3]]).last_hidden_state
    torch.testing.assert_close(swapped[:, [1, 0, 2, 3]], model(IDS).last_hidden_state, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooler", ["cls", "cls_tanh", "last", "before_last", "eos", "mean", "none"])
def test_pooling_reads_the_real_tokens_alone(stack, pooler):
    model = stack(pooler=pooler)
    ids = torch.tensor([[4, 4, 1, 5, 2, 4], [1, 7, 2, 4, 4, 4]])  # 2 is eos
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]])
    output = model(ids, attention_mask=mask)
    states = output.last_hidden_state
    at = {"cls": [2, 0], "cls_tanh": [2, 0], "last": [4, 3], "before_last": [3, 2], "eos": [4, 2]}
    if pooler == "none":
        assert output.pooler_output is None
    elif pooler == "mean":
        expected = torch.stack([states[0, 2:5].mean(0), states[1, :4].mean(0)])
        torch.testing.assert_close(output.pooler_output, expected, rtol=0, atol=1e-14)
    else:
        expected = states[torch.arange(2), at[pooler]]
        expected = torch.tanh(model.pooler.dense(expected)) if pooler == "cls_tanh" else expected
        close(output.pooler_output, expected)


def test_the_token_before_the_last_is_found_across_gaps_and_is_the_first_of_a_single_one(stack):
    model = stack(pooler="before_last")
    ids, mask = torch.full((3, 5), 4), torch.tensor([[0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]])
    output = model(ids, attention_mask=mask)
    assert torch.equal(output.pooler_output, output.last_hidden_state[torch.arange(3), [1, 2, 3]])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_learned_query_pools_what_it_finds_in_the_real_tokens(stack, attention):
    model = stack("own", attention, pooler="attention")
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    output = model(IDS, attention_mask=mask)
    head, attn = model.pooler.head, model.pooler.head.attention
    for row in range(2):
        states = output.last_hidden_state[row, mask[row].bool()]
        query, key, value = (
            proj(x).unflatten(-1, (2, 16)).transpose(0, 1)
            for proj, x in ((attn.q_proj, head.probe[0]), (attn.k_proj, states), (attn.v_proj, states))
        )
        weights = (query @ key.transpose(1, 2) / 4).softmax(-1)
        pooled = attn.o_proj((weights @ value).transpose(0, 1).flatten(1))
        expected = pooled + head.mlp(head.norm(pooled))
        torch.testing.assert_close(output.pooler_output[row], expected[0], rtol=0, atol=1e-12)
    assert head.probe.abs().max() > 0


def test_pooling_at_eos_takes_the_first_of_several_and_any_of_the_ids(stack):
    model = stack(pooler="eos", eos_token_id=[2, 3])
    output = model(torch.tensor([[1, 5, 3, 2], [1, 2, 2, 3]]))
    assert torch.equal(output.pooler_output, output.last_hidden_state[torch.arange(2), [2, 1]])
    with pytest.raises(ValueError, match="pooler='eos' finds .* by .* id; pass input_ids"):
        model(inputs_embeds=torch.zeros(1, 2, 32, dtype=torch.float64))


def test_a_pooled_final_norm_reaches_the_pooled_vector_alone(stack):
    output, bare = stack(final_norm="pooled")(IDS), stack(final_norm="none")(IDS)
    model = stack(final_norm="pooled")
    close(output.last_hidden_state, bare.last_hidden_state)
    close(output.pooler_output, model.norm(bare.last_hidden_state[:, -1]))


def test_a_stack_without_cross_layers_is_a_plain_language_model(stack):
    model = stack(cross_attention_layers=[])
    assert not [name for name, _ in model.named_parameters() if "cross" in name]
    assert model(IDS).last_hidden_state.shape == (2, 4, 32)
    with pytest.raises(ValueError, match="cross_attention_layers names no layer to read it"):
        model(IDS, encoder_hidden_states=torch.zeros(2, 5, 32, dtype=torch.float64))


MEMORY = torch.ones(2, 5, 32, dtype=torch.float64)
REFUSED = {
    "neither": ({}, ValueError, "exactly one of input_ids and inputs_embeds; got neither"),
    "list": ({"input_ids": [[1, 2]]}, TypeError, "input_ids must be a tensor; got list"),
    "mask": ({"input_ids": IDS, "attention_mask": torch.ones(2, 9)}, ValueError, r"attention_mask must be \(R, T\)"),
    "long": ({"input_ids": IDS.repeat(1, 9)}, ValueError, "needs 36 positions, but max_position_embeddings=32"),
    "width": ({"input_ids": IDS, "encoder_hidden_states": MEMORY[..., 1:]}, ValueError, r"\(B, S, 32\)"),
    "mask of memory": (
        {"input_ids": IDS, "encoder_hidden_states": MEMORY, "encoder_attention_mask": torch.ones(2, 4)},
        ValueError,
        r"mask of encoder_hidden_states must be \(2, 5\); got \(2, 4\)",
    ),
    "rows": ({"input_ids": IDS[:1].repeat(3, 1), "encoder_hidden_states": MEMORY}, ValueError, "3 text rows and 2"),
    "typo": ({"input_ids": IDS, "attention_msk": IDS}, TypeError, "did you mean 'attention_mask'"),
    "cache": ({"input_ids": IDS, "past_key_values": []}, TypeError, "must be a transformers Cache; got list"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_inputs_are_refused_in_words(stack, name):
    inputs, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        stack()(**inputs)
