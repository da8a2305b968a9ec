"""The specification of cross-attention against the formula, written out query by query."""

import math

import pytest
import torch

from comparing import close
from mm.kernels.reference import reference_attention

GENERATOR = torch.Generator().manual_seed(0)


def tensors(batch=2, heads=4, kv_heads=2, queries=3, keys=5, width=8):
    def draw(*shape):
        return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)

    return (
        draw(batch, heads, queries, width),
        draw(batch, kv_heads, keys, width),
        draw(batch, kv_heads, keys, width),
    )


def by_hand(query, key, value, sees, scale):
    """sees(b, m, n) -> bool. Output, lse and mass by three nested loops and the formula."""
    batch, heads, queries, width = query.shape
    keys, groups = key.shape[2], heads // key.shape[1]
    output = torch.zeros_like(query)
    lse = torch.full((batch, heads, queries), -math.inf, dtype=query.dtype)
    mass = torch.zeros(batch, heads, keys, dtype=query.dtype)
    for b in range(batch):
        for h in range(heads):
            for m in range(queries):
                seen = [n for n in range(keys) if sees(b, m, n)]
                exponentials = [math.exp(float(query[b, h, m] @ key[b, h // groups, n]) * scale) for n in seen]
                for n, exponential in zip(seen, exponentials, strict=True):
                    share = exponential / sum(exponentials)
                    output[b, h, m] += share * value[b, h // groups, n]
                    mass[b, h, n] += share
                if seen:
                    lse[b, h, m] = math.log(sum(exponentials))
    return output, lse, mass


LENGTHS = torch.tensor([5, 2])
MASK = torch.tensor([[True, False, True, True, False], [False] * 5])
RANGES = torch.tensor([[[0, 5], [1, 3], [2, 2]], [[4, 5], [0, 1], [3, 9]]])
CASES = {
    "all keys": ({}, lambda b, m, n: True),
    "lengths": ({"key_lengths": LENGTHS}, lambda b, m, n: n < LENGTHS[b]),
    "a mask, empty for one context": ({"key_mask": MASK}, lambda b, m, n: bool(MASK[b, n])),
    "ranges, one empty": ({"row_ranges": RANGES}, lambda b, m, n: RANGES[b, m, 0] <= n < RANGES[b, m, 1]),
    "all together": (
        {"key_lengths": LENGTHS, "key_mask": MASK, "row_ranges": RANGES},
        lambda b, m, n: n < LENGTHS[b] and bool(MASK[b, n]) and RANGES[b, m, 0] <= n < RANGES[b, m, 1],
    ),
}


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_formula(case, scale):
    settings, sees = CASES[case]
    query, key, value = tensors()
    got = reference_attention(query, key, value, scale=scale, **settings)
    for mine, truth in zip(got, by_hand(query, key, value, sees, scale or 8**-0.5), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)


def test_ragged_rows_are_the_contexts_one_by_one():
    query, key, value = tensors(batch=3, queries=0)
    packed = torch.randn(1, 4, 7, 8, generator=GENERATOR, dtype=torch.float64)
    ranges = torch.tensor([[[0, n] for n in (1, 5, 2, 0, 3, 4, 5)]])
    lengths = torch.tensor([5, 3, 4])
    got = reference_attention(
        packed, key, value, cu_rows=torch.tensor([0, 4, 4, 7]), key_lengths=lengths, row_ranges=ranges
    )
    for context, rows in ((0, slice(0, 4)), (2, slice(4, 7))):
        one = slice(context, context + 1)
        alone = reference_attention(
            packed[:, :, rows], key[one], value[one], key_lengths=lengths[one], row_ranges=ranges[:, rows]
        )
        close(got.output[:, :, rows], alone.output)
        close(got.lse[:, :, rows], alone.lse)
        close(got.mass[one], alone.mass)
    assert not got.mass[1].any()


def test_a_query_without_keys_gives_zero_and_no_gradient():
    query, key, value = (tensor.requires_grad_() for tensor in tensors())
    got = reference_attention(query, key, value, key_lengths=torch.tensor([0, 5]))
    assert not got.output[0].any() and (got.lse[0] == -math.inf).all() and not got.mass[0].any()
    gradients = torch.autograd.grad(got.output.sum(), (query, key, value))
    assert all(torch.isfinite(gradient).all() and not gradient[0].any() for gradient in gradients)


def test_gradients_are_those_of_finite_differences():
    query, key, value = (tensor.requires_grad_() for tensor in tensors(queries=2, keys=3, width=4))
    lengths = torch.tensor([3, 2])

    def outputs(query, key, value):
        return tuple(reference_attention(query, key, value, key_lengths=lengths))

    assert torch.autograd.gradcheck(outputs, (query, key, value))


def test_the_eager_attention_of_the_models_is_the_specification(tiny_model):
    """MM's cross-attention, asked through a model: its weights summed over queries are the specification's mass."""
    model = tiny_model(attention="eager")
    seen = {}
    layer = model.model.language_model.layers[0].cross_attn
    heads = lambda output: output.unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)  # noqa: E731
    layer.q_proj.register_forward_hook(lambda module, args, output: seen.update(query=heads(output)))
    layer.k_proj.register_forward_hook(lambda module, args, output: seen.update(key=heads(output)))
    pixels = torch.randn(1, 3, 16, 16, generator=GENERATOR, dtype=torch.float64)
    output = model(torch.tensor([[1, 5, 6]]), pixel_values=pixels, output_attentions=True)
    truth = reference_attention(seen["query"], seen["key"], seen["key"])
    torch.testing.assert_close(output.cross_attentions[0].sum(2), truth.mass, rtol=1e-12, atol=1e-12)
