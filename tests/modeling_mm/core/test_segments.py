"""Long texts: segments with carried states, and learned positions spread over a longer text."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch

from comparing import close
from mm import MMTextConfig, MMTextModel
from mm.modeling_mm.core.cache import MMCache
from mm.modeling_mm.core.positions import MMSegments, stretched

IDS = torch.randint(4, 50, (2, 11), generator=torch.Generator().manual_seed(0))
TEXTS = {
    "post-norm": {"type_vocab_size": 0},
    "pre-norm": {"norm_position": "pre", "final_norm": "all", "num_key_value_heads": 1, "qk_norm": "rms_norm"},
    "rope": {"position_embedding_type": "rope", "norm_position": "pre", "num_hidden_layers": 3},
    "cross": {"cross_attention_layers": [1]},
}


@pytest.fixture
def stack(tiny_config, visible):
    """`stack(name, **fields)`: a text stack in fp64, without cross-attention unless named."""

    def build(name="post-norm", attention="sdpa", **fields) -> MMTextModel:
        torch.manual_seed(0)
        base = {**tiny_config("vit", "inside").text_config.to_dict(), "cross_attention_layers": []}
        config = MMTextConfig(**{**base, **TEXTS[name], **fields})
        return visible(MMTextModel._from_config(config, attn_implementation=attention)).double().eval()

    return build


def states(model, ids=IDS, **inputs):
    if model.config.cross_attention_layers:
        generator = torch.Generator().manual_seed(1)
        inputs["encoder_hidden_states"] = torch.randn(len(ids), 3, 32, generator=generator, dtype=torch.float64)
    return model(ids, **inputs).last_hidden_state


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("length", [1, 4, 10])
def test_a_causal_text_that_carries_all_before_it_equals_the_text_as_a_whole(stack, name, attention, length):
    whole = stack(name, attention)
    close(states(stack(name, attention, segment_length=length, memory_length=10)), states(whole))


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_of_one_segment_is_bit_equal_to_the_text_as_a_whole(stack, name, is_causal):
    segmented = stack(name, segment_length=11, memory_length=2, is_causal=is_causal)
    close(states(segmented), states(stack(name, is_causal=is_causal)))


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("memory_length", [0, 3, 6])
@pytest.mark.parametrize("length", [3, 4])
def test_each_segment_sees_itself_and_the_inputs_just_before_it(stack, is_causal, memory_length, length):
    model = stack("pre-norm", segment_length=length, memory_length=memory_length, is_causal=is_causal)
    expected = model._embed(model.embed_tokens(IDS), torch.arange(11)[None], None, has_cache=False)
    for layer in model.layers:  # written out: one segment after the other, by a mask over the tokens it may see
        inputs, outputs = expected, []
        for start in range(0, 11, length):
            first, end = max(start - memory_length, 0), min(start + length, 11)
            seen = torch.ones(end - first, end - first, dtype=torch.bool)
            seen = seen.tril() if is_causal else seen
            part = layer(inputs[:, first:end], attention_mask=seen[None, None])
            outputs.append(part[:, start - first :])
        expected = torch.cat(outputs, 1)
    close(states(model), model.norm(expected))


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("is_causal", [True, False])
def test_padding_on_either_side_moves_no_boundary(stack, name, is_causal):
    model = stack(name, segment_length=4, memory_length=3, is_causal=is_causal)
    bare = [states(model, IDS[:1, :n]) for n in (3, 9)]
    for before, after in ((0, 1), (6, 0), (2, 5)):
        for text, row in zip(bare, (IDS[:1, :3], IDS[:1, :9]), strict=True):
            ids = torch.nn.functional.pad(row, (before, after), value=9)
            mask = torch.nn.functional.pad(torch.ones_like(row), (before, after))
            close(states(model, ids, attention_mask=mask)[:, before : before + row.shape[1]], text)


def test_no_gradient_goes_back_into_an_earlier_segment_but_into_the_weights_it_does(stack):
    one_layer = {"num_hidden_layers": 1}
    model, whole = stack("pre-norm", segment_length=4, memory_length=8, **one_layer), stack("pre-norm", **one_layer)
    embeds = model.embed_tokens(IDS).detach().requires_grad_()
    for each in (model, whole):
        each(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, 8:].sum().backward()
        if each is model:
            assert embeds.grad[:, :8].abs().max() == 0 and embeds.grad[:, 8:].abs().max() > 0
    for name in ("k_proj", "v_proj"):
        mine, theirs = (getattr(each.layers[0].self_attn, name).weight.grad for each in (model, whole))
        close(mine, theirs)


def test_hidden_states_and_weights_have_a_place_per_token(stack):
    model = stack("post-norm", "eager", segment_length=4, memory_length=3)
    output = model(IDS, output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 11, 32)] * 3
    assert [tuple(w.shape) for w in output.attentions] == [(2, 2, 11, 7)] * 2
    close(output.attentions[0].sum(-1), torch.ones(2, 2, 11, dtype=torch.float64))
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


def test_checkpointing_changes_no_gradient(stack):
    grads = []
    for checkpointed in (False, True):
        model = stack("cross", segment_length=4, memory_length=3, use_cache=False).train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        states(model).square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        close(grads[1][name], grad)


def test_windows_are_the_tokens_before_and_the_own_ones():
    plan = MMSegments((1, 7), 3, 2, None)
    tokens = torch.arange(1, 8.0).view(1, 1, 7, 1)
    keys, _ = plan.fold_keys((tokens, tokens), (tokens, tokens))
    assert keys[:, 0, :, 0].tolist() == [[0, 0, 1, 2, 3], [2, 3, 4, 5, 6], [5, 6, 7, 0, 0]]
    assert torch.equal(plan.key_mask(tokens.device), keys[:, 0, :, 0] > 0)
    assert torch.equal(plan.unfold(plan.fold(tokens).transpose(1, 2)), tokens.transpose(1, 2))


def test_segments_use_no_cache_and_no_ready_mask(stack):
    model = stack("post-norm", segment_length=4)
    assert model(IDS, use_cache=True).past_key_values is None
    with pytest.raises(ValueError, match="segment_length=4 carries states .* uses no cache"):
        model(IDS, past_key_values=MMCache.wrap(stack()(IDS, use_cache=True).past_key_values))
    with pytest.raises(ValueError, match=r"ready mask \(1, 1, 11, 11\).*pass the mask as \(R, T\)"):
        model(IDS, attention_mask=torch.ones(1, 1, 11, 11, dtype=torch.bool))


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_text_that_fits_gets_its_own_positions_exactly_beside_one_that_does_not(stack, is_causal):
    plain = stack(max_position_embeddings=11, is_causal=is_causal)
    model = stack(max_position_embeddings=11, interpolate_positions=True, is_causal=is_causal, use_cache=False)
    close(states(model), states(plain))
    long = torch.cat([IDS, IDS], 1)
    mask = torch.ones_like(long)
    mask[1, :13] = 0  # 9 tokens
    close(states(model, long, attention_mask=mask)[1:, 13:], states(plain, long[1:, 13:]))


def test_a_longer_text_spreads_over_the_table(stack):
    model = stack(max_position_embeddings=6, interpolate_positions=True, use_cache=False)
    table, places = model.embed_positions.weight, torch.arange(11)[None]
    spread = stretched(table, places)[0]
    close(spread[::2], table)
    close(spread[1::2], (table[:-1] + table[1:]) / 2)
    bare = torch.nn.functional.interpolate(table.T[None], size=17, mode="linear", align_corners=True)[0].T
    close(stretched(table, torch.arange(17)[None])[0], bare)


def test_a_longer_text_in_segments_spreads_too(stack):
    fields = {"max_position_embeddings": 6, "interpolate_positions": True, "use_cache": False}
    close(states(stack(**fields, segment_length=4, memory_length=8)), states(stack(**fields)))


def test_stretched_positions_cannot_go_into_a_cache_and_must_not_be_negative(stack):
    model = stack(max_position_embeddings=6, interpolate_positions=True)
    with pytest.raises(ValueError, match="the text needs 11 positions, but max_position_embeddings=6"):
        model(IDS, use_cache=True)
    with pytest.raises(ValueError, match="position_ids must not be negative; got -1"):
        model(IDS, use_cache=False, position_ids=torch.arange(11)[None] - 1)
