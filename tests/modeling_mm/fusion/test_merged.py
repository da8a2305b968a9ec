"""Merged fusion in MMTextModel: media tokens in the text's own sequence, by mask, order, padding and cache.

R rows, T text tokens, S media tokens, D width.
"""

import pytest
import torch

from comparing import close
from mm import MMTextConfig, MMTextModel
from mm.modeling_mm.core.prefix import MMPrefix, merge

TINY = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 16, "initializer_range": 0.3,
}  # fmt: skip
KINDS = [("prefix", "media_first"), ("causal", "media_first"), ("bidirectional", "media_first"),
         ("bidirectional", "text_first")]  # fmt: skip


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
    close(output.last_hidden_state, expected)
    close(output.pooler_output, expected[:, -1])


def test_a_prefix_sees_itself_both_ways_and_no_text(build, media):
    model = build()
    output = model(input_ids=IDS, prefix=MMPrefix(media))
    other_text = model(input_ids=IDS.flip(1), prefix=MMPrefix(media))
    close(other_text.context_hidden_states, output.context_hidden_states)
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
    close(padded.last_hidden_state[:, 2:], alone.last_hidden_state)
    close(padded.context_hidden_states[:, :3], alone.context_hidden_states)
    close(padded.pooler_output, alone.pooler_output)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("kind", "order"), KINDS)
def test_a_row_without_media_equals_the_text_alone(build, media, kind, order, attention):
    model = build(kind, attention)
    text = model(input_ids=IDS).last_hidden_state
    real = torch.tensor([[False] * 3, [True] * 3])
    output = model(input_ids=IDS, prefix=MMPrefix(media, real, kind, order)).last_hidden_state
    close(output[0], text[0])
    assert (output[1] - text[1]).abs().max() > 1e-3


def test_the_embedding_norm_may_cover_the_media(build, media):
    model = build()
    output = model(input_ids=IDS, prefix=MMPrefix(media, embedding_norm=True))
    by_hand = model(input_ids=IDS, prefix=MMPrefix(model.embed_norm(media)))
    close(output.last_hidden_state, by_hand.last_hidden_state)


def test_media_of_another_width_or_behind_text_are_refused(build, media):
    model = build()
    with pytest.raises(ValueError, match=r"prefix must be float \(B, S, 16\)"):
        model(input_ids=IDS, prefix=MMPrefix(media[..., :8]))
    cache = model(input_ids=IDS, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="past_key_values was given with a prefix"):
        model(input_ids=IDS, prefix=MMPrefix(media), past_key_values=cache)
    encoder = build("bidirectional", segment_length=4)
    with pytest.raises(ValueError, match="segment_length=4"):
        encoder(input_ids=IDS, prefix=MMPrefix(media, mask_kind="bidirectional"))
