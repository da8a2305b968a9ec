"""Merged fusion in MMTextModel: media tokens in the text's own sequence, by mask, order, padding and cache.

R rows, T text tokens, S media tokens, D width.
"""

import pytest
import torch
from torch.testing import assert_close

from mm import MMTextConfig, MMTextModel
from mm.modeling_mm.fusion import MMPrefix, merge

TINY = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 16, "initializer_range": 0.3,
}  # fmt: skip
KINDS = [("prefix", "media_first"), ("causal", "media_first"), ("bidirectional", "media_first"),
         ("bidirectional", "text_first")]  # fmt: skip
EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def build(visible):
    def build(kind="prefix", attention="sdpa", **fields) -> MMTextModel:
        torch.manual_seed(0)
        config = MMTextConfig(**{**TINY, "is_causal": kind != "bidirectional", **fields})
        return visible(MMTextModel._from_config(config, attn_implementation=attention)).double().eval()

    return build


@pytest.fixture
def media() -> torch.Tensor:
    return torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


IDS = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 4, 3, 2]])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("kind", "order"), [pair for pair in KINDS if pair[0] != "prefix"])
def test_it_is_one_sequence(build, media, kind, order, attention):
    """Without positions and embedding norm a merged call is a call on the concatenated embeddings."""
    model = build(kind, attention, position_embedding_type="none", embedding_norm=False)
    output = model(input_ids=IDS, prefix=MMPrefix(media, mask_kind=kind, order=order))
    both = model(inputs_embeds=merge(media, model.embed_tokens(IDS), order)).last_hidden_state
    expected = both[:, 3:] if order == "media_first" else both[:, :5]
    assert_close(output.last_hidden_state, expected, **EXACT)
    assert_close(output.pooler_output, expected[:, -1], **EXACT)


def test_a_prefix_sees_itself_both_ways_and_no_text(build, media):
    model = build()
    output = model(input_ids=IDS, prefix=MMPrefix(media))
    other_text = model(input_ids=IDS.flip(1), prefix=MMPrefix(media))
    assert_close(other_text.context_hidden_states, output.context_hidden_states, **EXACT)
    moved = media.clone()
    moved[:, -1] = media.flip(0)[:, -1]
    other_media = model(input_ids=IDS, prefix=MMPrefix(moved))
    assert (other_media.context_hidden_states - output.context_hidden_states)[:, 0].abs().max() > 1e-3
    assert (other_media.last_hidden_state - output.last_hidden_state)[:, 0].abs().max() > 1e-3


@pytest.mark.parametrize("positions", ["absolute", "rope"])
@pytest.mark.parametrize(("kind", "order"), KINDS)
def test_padded_media_and_text_change_nothing(build, media, kind, order, positions):
    model = build(kind, position_embedding_type=positions)
    alone = model(input_ids=IDS, prefix=MMPrefix(media, None, kind, order))
    wide_ids = torch.cat([torch.zeros(2, 2, dtype=torch.long), IDS], dim=1)
    wide_media = torch.cat([media, torch.ones(2, 2, 16)], dim=1)
    real = torch.tensor([[1] * 3 + [0] * 2] * 2).bool()
    padded = model(
        input_ids=wide_ids,
        attention_mask=(wide_ids != 0).long(),
        prefix=MMPrefix(wide_media, real, kind, order),
    )
    assert_close(padded.last_hidden_state[:, 2:], alone.last_hidden_state, **EXACT)
    assert_close(padded.context_hidden_states[:, :3], alone.context_hidden_states, **EXACT)
    assert_close(padded.pooler_output, alone.pooler_output, **EXACT)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("kind", "order"), KINDS)
def test_a_row_without_media_equals_the_text_alone(build, media, kind, order, attention):
    model = build(kind, attention)
    text = model(input_ids=IDS).last_hidden_state
    real = torch.tensor([[False] * 3, [True] * 3])
    output = model(input_ids=IDS, prefix=MMPrefix(media, real, kind, order)).last_hidden_state
    assert_close(output[0], text[0], **EXACT)
    assert (output[1] - text[1]).abs().max() > 1e-3


@pytest.mark.parametrize("positions", ["absolute", "rope"])
@pytest.mark.parametrize("kind", ["prefix", "causal"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_cache_holds_the_media_s_states(build, media, kind, positions, padded):
    model = build(kind, position_embedding_type=positions)
    real = torch.tensor([[True, True, False], [True] * 3]) if padded else None
    mask = torch.tensor([[0, 1, 1, 1, 1], [1] * 5]) if padded else None
    prefix = MMPrefix(media, real, kind)
    whole = model(input_ids=IDS, attention_mask=mask, prefix=prefix).last_hidden_state
    cache, steps = None, []
    for end in (2, 3, 5):
        start = 0 if cache is None else cache.get_seq_length() - 3
        output = model(
            input_ids=IDS[:, start:end],
            attention_mask=None if mask is None else mask[:, :end],
            prefix=prefix,  # unread once the cache holds it
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        steps.append(output.last_hidden_state)
    assert cache.get_seq_length() == 3 + 5
    seen = slice(None) if mask is None else mask.bool()
    assert_close(torch.cat(steps, dim=1)[seen], whole[seen], **EXACT)


def test_the_embedding_norm_may_cover_the_media(build, media):
    model = build()
    output = model(input_ids=IDS, prefix=MMPrefix(media, embedding_norm=True))
    by_hand = model(input_ids=IDS, prefix=MMPrefix(model.embed_norm(media)))
    assert_close(output.last_hidden_state, by_hand.last_hidden_state, **EXACT)


def test_media_of_another_width_or_behind_text_are_refused(build, media):
    model = build()
    with pytest.raises(ValueError, match=r"prefix must be float \(B, S, 16\)"):
        model(input_ids=IDS, prefix=MMPrefix(media[..., :8]))
    cache = model(input_ids=IDS, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="holds text already"):
        model(input_ids=IDS, prefix=MMPrefix(media), past_key_values=cache)
    encoder = build("bidirectional", segment_length=4)
    with pytest.raises(ValueError, match="segment_length=4"):
        encoder(input_ids=IDS, prefix=MMPrefix(media, mask_kind="bidirectional"))
