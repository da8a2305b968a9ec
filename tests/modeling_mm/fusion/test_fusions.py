"""The fusion modules on tensors: each formula by hand, masks as tables, what an absent modality adds.

R rows, T text tokens, S media tokens, D width.
"""

# Modules are reached by name, which pyright cannot follow, and a stand-in is attended for.

import math

import pytest
import torch
from torch.testing import assert_close

from comparing import close
from mm import MMContextOutput, MMTextConfig
from mm.modeling_mm.core.plain_attention import eager_attention_forward
from mm.modeling_mm.core.prefix import MMPrefix, merge, merged_mask, split
from mm.modeling_mm.fusion.context import modality_vectors
from mm.modeling_mm.fusion.fusions import (
    MMCoAttentionFusion,
    MMConcatFusion,
    MMDecisionFusion,
    MMGatedFusion,
    MMSumFusion,
)

REPRESENTATION = (MMConcatFusion, MMSumFusion, MMGatedFusion)


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """In fp64, with no weight at a neutral value."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = 0.3 * noise + float(name.endswith("norm.weight"))
    return module.double().eval()


# ---- the formulas, by hand -----------------------------------------------------------------------------------------


def test_cross_modal_fusion_is_concat_times_w():
    """CrossModalFusion(T, V) = concat(T, V) W with T = (1, 2), V = (3, 4) and W = ((1, 0), (0, 1), (1, 1), (2, 0))."""
    fusion = MMConcatFusion({"text": 2, "image": 2}, 2).double()
    fusion.dense.weight.data = double([[1, 0], [0, 1], [1, 1], [2, 0]]).T
    # (1*1 + 2*0 + 3*1 + 4*2, 1*0 + 2*1 + 3*1 + 4*0)
    assert_close(fusion({"text": double([[1, 2]]), "image": double([[3, 4]])}), double([[12, 5]]))


def test_scaled_dot_product_attention_by_hand():
    """softmax(Q K^T / sqrt(d)) V: one query (2, 0), two keys (ln 3, 0) and (0, 5), d = 4 of which two are zero."""
    module = torch.nn.Module()
    module.num_key_value_groups, module.softcap, module.training = 1, None, False
    query = double([2, 0, 0, 0]).view(1, 1, 1, 4)
    key = double([[math.log(3), 0, 0, 0], [0, 5, 0, 0]]).view(1, 1, 2, 4)
    value = double([[4, 0], [0, 8]]).view(1, 1, 2, 2)
    output, weights = eager_attention_forward(module, query, key, value, None, scaling=4**-0.5)
    # the scores are ln 3 and 0, so the weights 3/4 and 1/4
    assert_close(weights.flatten(), double([0.75, 0.25]))
    assert_close(output.flatten(), double([3, 2]))


def test_early_fusion_is_one_sequence():
    media, text = double([[[1, 1], [2, 2]]]), double([[[3, 3]]])
    assert merge(media, text, "media_first").tolist() == [[[1, 1], [2, 2], [3, 3]]]
    assert merge(media, text, "text_first").tolist() == [[[3, 3], [1, 1], [2, 2]]]
    for order in ("media_first", "text_first"):
        assert [part.tolist() for part in split(merge(media, text, order), MMPrefix(media, order=order))] == [
            media.tolist(),
            text.tolist(),
        ]


def test_late_fusion_is_the_weighted_mean_of_the_answers():
    """0.3 of the text's (1, 0) and 0.7 of the picture's (0, 1)."""
    fusion = MMDecisionFusion(["text", "image"], {"image": 0.7, "text": 0.3})
    logits = {"text": double([[1, 0]]), "image": double([[0, 1]])}
    fused, weights = fusion(logits, {"text": None, "image": None})
    assert_close(fused, double([[0.3, 0.7]]))
    assert_close(weights, double([0.3, 0.7]))


def test_learned_late_fusion_starts_from_equal_weights():
    fusion = MMDecisionFusion(["text", "image", "audio"]).double()
    logits = {"text": double([[6, 0]]), "image": double([[0, 3]]), "audio": double([[3, 3]])}
    fused, weights = fusion(logits, dict.fromkeys(logits))
    assert_close(weights.detach(), double([1 / 3] * 3))
    assert_close(fused.detach(), double([[3, 2]]))


def test_a_sum_of_projections_by_hand():
    fusion = MMSumFusion({"text": 2, "image": 1}, 1).double()
    fusion.dense["text"].weight.data = double([[1, 10]])
    fusion.dense["image"].weight.data = double([[100]])
    assert_close(fusion({"text": double([[1, 2]]), "image": double([[3]])}), double([[321]]))


def test_a_gate_weighs_the_picture_by_text_and_picture():
    """T W_t = 1, V W_v = 2, gate = T + 2 V = atanh(0.5) - so 1 + 0.5 * 2."""
    fusion = MMGatedFusion({"text": 1, "image": 1}, 1).double()
    fusion.dense["text"].weight.data = double([[1]])
    fusion.dense["image"].weight.data = double([[2]])
    fusion.gates["image"].gate_weight.data = double([[1, 2]])
    fusion.gates["image"].gate_bias.data = double([math.atanh(0.5) - 3])
    assert_close(fusion({"text": double([[1]]), "image": double([[1]])}), double([[2]]))


# ---- absent modalities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REPRESENTATION)
def test_a_zero_vector_and_no_vector_are_the_same(kind):
    fusion = randomised(kind({"text": 3, "image": 4}, 5))
    text = random_vectors(2, 3)
    assert_close(fusion({"text": text, "image": text.new_zeros(2, 4)}), fusion({"text": text, "image": None}))
    assert_close(fusion({"text": text}), fusion({"text": text, "image": None}))
    image = random_vectors(2, 4)
    assert torch.isfinite(fusion({"image": image})).all()


def test_new_gates_give_the_answer_of_the_text_alone():
    fusion = MMGatedFusion({"text": 3, "image": 4}, 5)
    text, image = torch.randn(2, 3), torch.randn(2, 4)
    close(fusion({"text": text, "image": image}), fusion({"text": text}))
    fusion({"text": text, "image": image}).sum().backward()
    assert fusion.gates["image"].gate_weight.grad.abs().sum() > 0  # closed, and yet it learns


def test_late_fusion_weighs_only_the_modalities_that_a_row_has():
    fusion = MMDecisionFusion(["text", "image", "audio"], {"text": 0.5, "image": 0.3, "audio": 0.2})
    logits = {"text": double([[1.0]] * 3), "image": double([[2.0]] * 3), "audio": double([[4.0]] * 3)}
    present = {"text": None, "image": torch.tensor([True, False, True]), "audio": torch.tensor([True, True, False])}
    expected = [[0.5 + 0.6 + 0.8], [(0.5 + 0.8) / 0.7], [(0.5 + 0.6) / 0.8]]
    assert_close(fusion(logits, present)[0], double(expected))
    nothing = {name: torch.zeros(3, dtype=torch.bool) for name in logits}
    assert_close(fusion(logits, nothing)[0], double([[0.0]] * 3))
    assert_close(fusion({**logits, "image": None, "audio": None}, {})[0], double([[1.0]] * 3))


def test_modality_vectors_are_the_mean_of_the_real_tokens_of_each_kind():
    tokens = torch.arange(16.0).view(2, 4, 2)
    tokens[1, 3] = torch.nan  # padding may hold anything
    kinds = torch.tensor([[0, 0, 2, 2], [2, 2, 2, -1]])
    sources = torch.stack([kinds, kinds, kinds], dim=-1)
    context = MMContextOutput(tokens, torch.tensor([[True] * 4, [True, True, True, False]]), sources)
    vectors, present = modality_vectors(context, ["image", "audio"])
    assert vectors["image"].tolist() == [[1, 2], [0, 0]]
    assert vectors["audio"].tolist() == [[5, 6], [10, 11]]
    assert present["image"].tolist() == [True, False] and present["audio"].tolist() == [True, True]


def test_a_context_without_sources_is_of_the_first_modality():
    vectors, present = modality_vectors(MMContextOutput(torch.ones(1, 2, 3)), ["audio"])
    assert vectors["audio"].tolist() == [[1, 1, 1]] and present["audio"].all()


# ---- merged: who sees whom -----------------------------------------------------------------------------------------

SEEN = {  # two media tokens and two text tokens; queries from top to bottom
    "prefix": ["xx..", "xx..", "xxx.", "xxxx"],
    "causal": ["x...", "xx..", "xxx.", "xxxx"],
    "bidirectional": ["xxxx"] * 4,
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", SEEN)
@pytest.mark.parametrize("padded", [False, True])
def test_merged_masks(kind, attention, padded):
    config = text_config(is_causal=kind != "bidirectional")
    config._attn_implementation = attention
    real = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]]) if padded else None
    prefix = MMPrefix(torch.zeros(2, 2, 16), None if real is None else real[:, :2].bool(), kind)
    mask = merged_mask(config, torch.zeros(2, 4, 16), prefix, None if real is None else real[:, 2:])
    expected = torch.tensor([[mark == "x" for mark in line] for line in SEEN[kind]]).expand(2, 4, 4)
    if real is not None:
        expected = expected & real.bool()[:, None]
    if mask is None:  # plain causal or full, which the attention function is told by is_causal
        assert not padded and kind != "prefix"
        return
    seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
    rows = expected.any(-1)  # a query that sees nothing gives zeros, whatever its mask row holds
    assert torch.equal(seen.expand(2, 4, 4)[rows], expected[rows])


# ---- co-attention --------------------------------------------------------------------------------------------------


def text_config(**fields) -> MMTextConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return MMTextConfig(
        **{**sizes, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2, "is_causal": False, **fields}
    )


def co_attention(attention: str = "eager", **fields) -> MMCoAttentionFusion:
    config = text_config(**fields)
    config._attn_implementation = attention
    return randomised(MMCoAttentionFusion(config, 2))


def test_co_attention_goes_both_ways():
    fusion = co_attention()
    text, media = random_vectors(2, 3, 16), random_vectors(2, 4, 16, seed=1)
    fused_text, fused_media = fusion(text, None, media)
    other_text, _ = fusion(text, None, random_vectors(2, 4, 16, seed=2))
    _, other_media = fusion(random_vectors(2, 3, 16, seed=3), None, media)
    assert fused_text.shape == text.shape and fused_media.shape == media.shape
    assert (fused_text - other_text).abs().amax(-1).min() > 1e-3
    assert (fused_media - other_media).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_co_attention_does_not_see_padding(attention):
    fusion = co_attention(attention)
    text, media = random_vectors(1, 3, 16), random_vectors(1, 4, 16, seed=1)
    alone_text, alone_media = fusion(text, None, media)
    wide_text = torch.cat([random_vectors(1, 2, 16, seed=2), text], dim=1)  # padded on the left
    wide_media = torch.cat([media, random_vectors(1, 1, 16, seed=3)], dim=1)
    text_mask, media_mask = torch.tensor([[0, 0, 1, 1, 1]]), torch.tensor([[1, 1, 1, 1, 0]])
    fused_text, fused_media = fusion(wide_text, text_mask, wide_media, media_mask)
    assert_close(fused_text[:, 2:], alone_text, atol=1e-12, rtol=1e-12)
    assert_close(fused_media[:, :4], alone_media, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_co_attention_without_media_is_the_text_stream_alone(attention):
    fusion = co_attention(attention)
    text, media = random_vectors(2, 3, 16), random_vectors(2, 4, 16, seed=1)
    alone, nothing = fusion(text, None)
    fused, _ = fusion(text, None, media, torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]]))
    assert nothing is None
    assert_close(fused[0], alone[0], atol=1e-12, rtol=1e-12)
    assert (fused[1] - alone[1]).abs().max() > 1e-3


def test_closed_gates_start_co_attention_from_each_stream_alone():
    config = text_config(cross_attention_gate="tanh", norm_position="pre")
    config._attn_implementation = "sdpa"
    fusion = MMCoAttentionFusion(config, 2).double().eval()
    text, media = random_vectors(2, 3, 16), random_vectors(2, 4, 16, seed=1)
    assert_close(fusion(text, None, media)[0], fusion(text, None)[0], atol=1e-12, rtol=1e-12)
