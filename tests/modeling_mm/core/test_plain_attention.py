"""What takes the place of SDPA: heads that share keys as more queries, and attention in the open in bf16."""

import pytest
import torch

from mm import MMTextConfig, MMTextModel
from mm.modeling_mm.core import plain_attention
from mm.modeling_mm.core.attention import MMCrossAttention
from mm.modeling_mm.core.context_rows import MMRows
from mm.modeling_mm.core.plain_attention import attend_by_groups


@pytest.mark.parametrize("mask", [None, (1, 1, 1, 9), (2, 1, 1, 9), (2, 1, 5, 9), (2, 8, 5, 9), (2, 8, 1, 9)])
@pytest.mark.parametrize("kind", [torch.bool, torch.float64])
def test_heads_that_share_keys_are_more_queries_of_them(mask, kind):
    numbers = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, length, 16, generator=numbers, dtype=torch.float64)
        for heads, length in ((8, 5), (2, 9), (2, 9))
    )
    if mask is not None:
        is_open = torch.rand(mask, generator=numbers) < 0.7
        is_open[..., 0] = True
        mask = is_open if kind == torch.bool else torch.zeros(mask).double().masked_fill(~is_open, -torch.inf)
    found = attend_by_groups(query, key, value, mask, 0.0, 0.3)
    copied = [states.repeat_interleave(4, dim=1) for states in (key, value)]
    wanted = torch.nn.functional.scaled_dot_product_attention(query, *copied, attn_mask=mask, scale=0.3)
    assert torch.allclose(found, wanted.transpose(1, 2), rtol=0, atol=1e-12)


def test_cross_attention_of_few_queries_copies_no_keys(tiny_config, visible, monkeypatch):
    """For each head that shares them; of long texts copying is the cheaper way."""
    config = tiny_config("vit", "llama").text_config
    config._attn_implementation = "sdpa"
    attention = visible(MMCrossAttention(config, 0, config.context_width)).eval()
    assert attention.num_key_value_groups > 1
    sizes, product = [], torch.nn.functional.scaled_dot_product_attention

    def seen(query, key, value, **kwargs):
        sizes.append(key.numel())
        return product(query, key, value, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
    context, rows = torch.randn(2, 11, config.context_width), MMRows(2, 2)
    mask = torch.ones(2, 1, 3, 11, dtype=torch.bool)
    mask[..., 6:] = False
    with torch.no_grad():
        found, _ = attention(torch.randn(2, 3, config.hidden_size), context, rows, attention_mask=mask)
    assert found.shape == (2, 3, config.hidden_size)
    assert sizes == [2 * config.num_key_value_heads * 11 * attention.head_dim]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("heads", [2, 1])
def test_bf16_with_a_gradient_on_a_cpu_is_attended_in_the_open(monkeypatch, padded, heads):
    """Chosen where the CPU multiplies bf16, for few scores; as near to fp32 as SDPA is, gradients too."""
    torch.manual_seed(0)
    stack = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": heads}
    model = MMTextModel(MMTextConfig(**stack, intermediate_size=16, vocab_size=120, hidden_dropout=0.0)).train()
    model.set_attn_implementation("sdpa")
    ids = torch.randint(5, 30, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    given = {"input_ids": ids, "attention_mask": mask if padded else None}
    seen = []

    def run(chosen: bool, autocast: bool, wanted: bool = True) -> list[torch.Tensor]:
        monkeypatch.setattr(plain_attention, "_multiplies_bf16", lambda: chosen)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.set_grad_enabled(wanted):
            states = model(**given).last_hidden_state.float() * mask[..., None]
        if wanted:
            (states**2).sum().backward()
        return [states.detach(), *(one.grad.clone() for one in model.parameters() if wanted and one.grad is not None)]

    real = plain_attention.eager_attention_forward
    monkeypatch.setattr(plain_attention, "eager_attention_forward", lambda *given: seen.append(1) or real(*given))
    exact, fused = run(False, False), run(False, True)
    run(True, True, wanted=False)
    run(True, False)
    assert not seen  # without bf16 hardware, without a gradient, and in fp32
    plain = run(True, True)
    assert len(seen) == 2  # a layer each
    least = 1e-4 * max(one.abs().max() for one in exact)  # the gradient of a key's bias is zero
    for wanted, by_sdpa, in_the_open in zip(exact, fused, plain, strict=True):
        allowed = 1.5 * (by_sdpa - wanted).abs().max() + 1e-2 * wanted.abs().max() + least
        assert (in_the_open - wanted).abs().max() <= allowed
    for layer in model.layers:
        layer.self_attn.dropout = 0.1
    run(True, True)
    for layer in model.layers:
        layer.self_attn.dropout = 0.0
    monkeypatch.setattr(plain_attention, "_MOST_SCORES", 7 * 7 - 1)
    run(True, True)
    assert len(seen) == 2  # with dropout, and of more scores
