"""A prefix that rows share: attention over it and the row's own text equals attention over both in one tensor."""

from types import SimpleNamespace

import pytest
import torch
from transformers.cache_utils import DynamicCache

from comparing import close
from mm import MMCache
from mm.modeling_mm.core import plain_attention
from mm.modeling_mm.core.context_rows import MMRows
from mm.modeling_mm.core.plain_attention import (
    MMPrefixKeys,
    MMPrefixMask,
    attend_by_lse,
    attend_with_prefix,
    eager_attention_forward,
)

S, P, D, SCALE = 7, 4, 8, 0.3
INDICES = {"beams": [0, 0, 0, 1, 1, 1], "ragged": [1, 0, 1, 1, 2], "one each": [0, 1, 2]}


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def case(index: list[int], heads: int, groups: int, length: int, lengths: list[int] | None):
    """Query, prefix, own keys and values, and the mask; of the rows at `index` in three contexts at most."""
    torch.manual_seed(0)
    number, contexts, held = len(index), max(index) + 1, heads // groups
    prefix = MMPrefixKeys(
        MMRows(number, contexts, torch.tensor(index)), drawn(contexts, held, S, D), drawn(contexts, held, S, D)
    )
    own = torch.ones(number, 1, length, P, dtype=torch.bool).tril(P - length)
    own[0, ..., 0] = False  # padding
    real = counts = None
    if lengths is not None:
        counts = torch.tensor(lengths[:contexts])
        real = (torch.arange(S) < counts[:, None])[:, None, None]
    key, value = drawn(number, held, P, D), drawn(number, held, P, D)
    return drawn(number, heads, length, D), prefix, key, value, MMPrefixMask(own, counts, real)


def in_one_tensor(query, prefix, key, value, mask, softcap=None):
    """The keys of each row's context copied before its own."""
    rows = prefix.rows
    before = rows.per_row(torch.ones(rows.num_contexts, 1, 1, S).bool() if mask.real is None else mask.real)
    whole = torch.cat([before.expand(-1, -1, query.shape[2], -1), mask.own], dim=-1)
    keys, values = (torch.cat([rows.per_row(a), b], dim=2) for a, b in ((prefix.key, key), (prefix.value, value)))
    groups = query.shape[1] // key.shape[1]
    module: object = SimpleNamespace(num_key_value_groups=groups, training=False, softcap=softcap)
    return eager_attention_forward(module, query, keys, values, whole, SCALE)


@pytest.mark.parametrize("lengths", [None, [7, 3, 0]], ids=["whole", "padded"])
@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize(("heads", "groups"), [(2, 1), (4, 2)])
@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_it_is_attention_over_both_in_one_tensor(monkeypatch, index, heads, groups, length, lengths):
    given = case(index, heads, groups, length, lengths)
    expected, weights = in_one_tensor(*given)
    output, shares = attend_with_prefix(*given, SCALE)
    close(output, expected)
    close(shares, weights)
    close(attend_by_lse(*given, SCALE), expected)
    monkeypatch.setattr(plain_attention, "MOST_SHARED_SCORES", 1)  # one column at a time
    close(attend_with_prefix(*given, SCALE)[0], expected)


def test_capped_scores_are_those_of_one_tensor():
    given = case(INDICES["ragged"], 4, 2, 4, [7, 3, 0])
    expected, weights = in_one_tensor(*given, softcap=0.8)
    output, shares = attend_with_prefix(*given, SCALE, softcap=0.8)
    close(output, expected)
    close(shares, weights)
    assert (expected - in_one_tensor(*given)[0]).abs().max() > 0.01


def test_a_query_without_any_key_gives_zeros():
    query, prefix, key, value, mask = case([0, 1], 2, 1, 1, [3, 0])
    mask = mask._replace(own=torch.zeros_like(mask.own))
    for output in (
        attend_with_prefix(query, prefix, key, value, mask, SCALE)[0],
        attend_by_lse(query, prefix, key, value, mask, SCALE),
    ):
        assert output[0].abs().max() > 0 and torch.equal(output[1], torch.zeros_like(output[1]))


def test_gradients_flow_to_all_parts():
    query, prefix, key, value, mask = case([0, 1, 0], 2, 1, 4, [7, 3])
    for attend in (attend_with_prefix, attend_by_lse):
        wanted = [tensor.clone().requires_grad_() for tensor in (query, prefix.key, prefix.value, key, value)]
        q, pk, pv, k, v = wanted
        output = attend(q, prefix._replace(key=pk, value=pv), k, v, mask, SCALE)
        output = output[0] if isinstance(output, tuple) else output
        got = torch.autograd.grad(output.square().sum(), wanted)
        expected, _ = in_one_tensor(q, prefix._replace(key=pk, value=pv), k, v, mask)
        for mine, theirs in zip(got, torch.autograd.grad(expected.square().sum(), wanted), strict=True):
            close(mine, theirs)


def test_no_step_copies_the_prefix():
    """The keys that a step reads are those that are held, with as many rows as contexts."""
    cache = MMCache(DynamicCache(), DynamicCache())
    cache.cross_attention_cache.update(drawn(2, 1, S, D), drawn(2, 1, S, D), 0)
    cache.hold_prefix(S, None, MMRows(6, 2))
    held = cache.cross_attention_cache.layers[0]
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.arange(12).flip(0))
    read = cache.prefix_keys(0)
    assert read.key.data_ptr() == held.keys.data_ptr() and read.value.data_ptr() == held.values.data_ptr()
    assert read.key.shape == (2, 1, S, D) and read.rows.num_rows == 12
    assert cache.self_attention_cache.update(drawn(12, 1, 1, D), drawn(12, 1, 1, D), 0)[0].shape == (12, 1, 1, D)
