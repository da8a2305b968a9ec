"""Attention in plain torch: in the open, with its weights, by SDPA where heads share keys, and over a prefix that many
rows share.

R rows, B contexts or rows, k rows per context, T text tokens, M or Q queries, S keys or prefix tokens, P own keys,
H / Hkv heads, D head width.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from ...kernels.cross_attention import attend_with_lse
from .context_rows import MMRows, as_keys
from .linear import capped


def eager_attention_forward(
    module: Any,
    query: torch.Tensor,  # (B, H, Q, D)
    key: torch.Tensor,  # (B, Hkv, S, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # float, added to the scores, masked entries the dtype's minimum; or bool
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q K^T * scaling + mask) V, in the open, the scores capped where the module has a softcap. Returns
    (B, Q, H, D) and the weights (B, H, Q, S).

    A query without a key gives exactly zero, as in SDPA and flex attention; a softmax over a row of equal minima would
    give the mean of all values instead.
    """
    groups = module.num_key_value_groups  # repeat_interleave(1) would copy what is in one piece, too, as a cache's
    key, value = (one.repeat_interleave(groups, 1) if groups > 1 else one.contiguous() for one in (key, value))
    scores = capped(torch.matmul(query, key.transpose(2, 3)) * scaling, module.softcap)
    if attention_mask is not None and attention_mask.dtype == torch.bool:  # made for SDPA, as generate() does
        closed = torch.finfo(scores.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=scores.dtype).masked_fill(~attention_mask, closed)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    if attention_mask is not None:
        has_key = attention_mask.amax(dim=-1, keepdim=True) > torch.finfo(attention_mask.dtype).min / 2
        weights = weights * has_key
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


# Scores of a head, beyond which they take more memory than their speed is worth.
_MOST_SCORES = 256 * 256


def faster_than_sdpa(
    module: Any, query, key, value, attention_mask, dropout: float, is_causal: bool | None
) -> torch.Tensor | None:
    """The same as Transformers' way to SDPA, (B, Q, H, D), where another way takes less time; None: it does not.

    Few queries of heads that share keys are more queries of them; of one query nothing is copied either way.
    """
    if torch.compiler.is_compiling():
        return None
    queries = query.shape[2]
    if module.num_key_value_groups > 1 and is_causal is False and 1 < queries <= module.head_dim:
        return attend_by_groups(query, key, value, attention_mask, dropout, module.scaling)
    if dropout or not plain_is_faster(query, key):
        return None
    if attention_mask is None and is_causal:  # the last query reads all keys, each before it one fewer
        own = torch.ones(queries, key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = own.tril(key.shape[2] - queries)[None, None]
    return eager_attention_forward(module, query, key, value, attention_mask, module.scaling)[0]


def plain_is_faster(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether attention in the open takes the place of SDPA: in bf16, with a gradient, on a CPU that multiplies bf16.

    Forward and backward by torch 2.13.0 on one core of an AMD EPYC with AVX512-BF16, SDPA's time over the plain: 96
    rows, 4 heads, 10 queries, 16 keys 23; 64 x 64 tokens 7.7; 197 x 197 3.2; 577 x 577 2.1. In fp32 0.9 to 1.7. Not
    for attention with dropout: a checkpointed layer may run its first forward without a gradient, so by SDPA, and the
    two drop other weights.
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return False
    wants_gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    return wants_gradient and query.shape[2] * key.shape[2] <= _MOST_SCORES and _multiplies_bf16()


@cache
def _multiplies_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def attend_by_groups(
    query: torch.Tensor,  # (B, H, M, D)
    key: torch.Tensor,  # (B, Hkv, S, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # bool or float (B or 1, 1 or H, M or 1, S)
    dropout: float,
    scaling: float,
) -> torch.Tensor:
    """SDPA, (B, M, H, D): the H / Hkv heads that share keys are more queries of them. With a mask, Transformers' way
    copies keys and values for each head."""
    shared, length = key.shape[1], query.shape[2]
    query = query.unflatten(1, (shared, -1)).flatten(2, 3)  # (B, Hkv, g*M, D)
    if attention_mask is not None and attention_mask.shape[1] > 1:
        attention_mask = attention_mask.unflatten(1, (shared, -1)).expand(-1, -1, -1, length, -1).flatten(2, 3)
    elif attention_mask is not None and attention_mask.shape[2] > 1:
        attention_mask = attention_mask.repeat(1, 1, query.shape[2] // length, 1)
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return output.unflatten(2, (-1, length)).flatten(1, 2).transpose(1, 2).contiguous()


# ---- a prefix that many rows share: its keys and values are stored once and never copied for a row ------------------

#    softmax([q Kp^T, q Ko^T]) [Vp, Vo]      p: the prefix, of its context (B, Hkv, S, D); o: own (R, Hkv, P, D)
#
# The rows of a context are more queries of the same keys, as in cross-attention. In plain torch only the scores of
# both parts are put side by side. A kernel gives the result of a part and its log-sum-exp, and those of two parts make
# that of the whole:
#
#    out = (e^lp out_p + e^lo out_o) / (e^lp + e^lo)
#
# Source: Juravsky et al. 2024 (arXiv:2402.05099), Dao 2023 (arXiv:2307.08691).

MOST_SHARED_SCORES = 2**26  # that are made at once; a longer prompt goes through in pieces


class MMPrefixMask(NamedTuple):
    """Who sees what of a shared prefix and of its own text.

    own: (R, 1, T, P), bool or float as SDPA takes it; None: all, or those before it where attention is causal.
    lengths: int64 (B,), the real tokens of each prefix; real: the same as bool (B, 1, 1, S); None: all.
    before: (R, 1, T, S) where the caller made the mask of the whole sequence.
    """

    own: torch.Tensor | None
    lengths: torch.Tensor | None = None
    real: torch.Tensor | None = None
    before: torch.Tensor | None = None


class MMPrefixKeys(NamedTuple):
    """Keys and values (B, Hkv, S, D) of the prefixes, and which row reads which."""

    rows: MMRows
    key: torch.Tensor
    value: torch.Tensor


def attend_with_prefix(
    query: torch.Tensor,  # (R, H, T, D)
    prefix: MMPrefixKeys,
    key: torch.Tensor,  # (R, Hkv, P, D), the row's own
    value: torch.Tensor,
    mask: MMPrefixMask,
    scaling: float,
    dropout: float = 0.0,  # the probability, 0 outside of training
    is_causal: bool = True,
    softcap: float | None = None,  # of the scores
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, T, H, D), and the weights (R, H, T, S + P), those of the prefix first."""
    own = _own_mask(mask.own, query, key, is_causal)
    pieces = _pieces(query, prefix.key.shape[2] + key.shape[2])
    outputs, weights = [], []
    for first, end in pieces:
        part = mask._replace(own=_columns(own, first, end), before=_columns(mask.before, first, end))
        states, shares = _in_the_open(query[:, :, first:end], prefix, key, value, part, scaling, dropout, softcap)
        outputs.append(states)
        weights.append(shares)
    if len(pieces) == 1:
        return outputs[0].transpose(1, 2).contiguous(), weights[0]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), torch.cat(weights, dim=2)


def attend_by_lse(
    query: torch.Tensor,
    prefix: MMPrefixKeys,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: MMPrefixMask,
    scaling: float,
    is_causal: bool = True,
) -> torch.Tensor:
    """As `attend_with_prefix`, (R, T, H, D): the prefix by the cross-attention kernel, both parts merged."""
    rows, length = prefix.rows, query.shape[2]
    place, place_back = (rows.pack, rows.unpack) if rows.is_ragged else (rows.fold, rows.unfold)
    seen: dict[str, Any] = as_keys(rows, mask.lengths, None, length)
    before, lse = attend_with_lse(place(query), prefix.key, prefix.value, scale=scaling, **seen)
    before = place_back(before.transpose(1, 2), length).transpose(1, 2)  # (R, H, T, D)
    lse_before = place_back(lse.transpose(1, 2), length).transpose(1, 2)  # (R, H, T)
    scores = _masked(_grouped(query, key.transpose(2, 3)) * scaling, _own_mask(mask.own, query, key, is_causal))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    lse_own = scores.logsumexp(-1)
    own = _grouped((scores - _finite(lse_own)[..., None]).exp().to(query.dtype), value)
    return merge_by_lse(before, lse_before, own, lse_own).transpose(1, 2).contiguous()


def merge_by_lse(
    first: torch.Tensor, lse_first: torch.Tensor, second: torch.Tensor, lse_second: torch.Tensor
) -> torch.Tensor:
    """Attention over two sets of keys, of that over each (..., D) and its log-sum-exp (...); -inf: no key, zeros."""
    most = _finite(torch.maximum(lse_first, lse_second))
    shares = torch.stack([(lse_first - most).exp(), (lse_second - most).exp()])
    shares = (shares / shares.sum(0).clamp(min=torch.finfo(shares.dtype).tiny))[..., None]
    return (first * shares[0] + second * shares[1]).to(first.dtype)


def _in_the_open(query, prefix, key, value, mask: MMPrefixMask, scaling: float, dropout: float, softcap: float | None):
    """(R, H, T, D) and weights (R, H, T, S + P) by one softmax over the scores of both parts."""
    rows, length, size = prefix.rows, query.shape[2], prefix.key.shape[2]
    before = capped(_grouped(rows.fold(query), prefix.key.transpose(2, 3)) * scaling, softcap)  # (B, H, k*T, S)
    before = rows.unfold(_masked(before, mask.real).transpose(1, 2), length).transpose(1, 2)
    own = capped(_grouped(query, key.transpose(2, 3)) * scaling, softcap)  # (R, H, T, P)
    scores = torch.cat([_masked(before, mask.before), _masked(own, mask.own)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    if mask.own is not None:  # a query without a key gives exactly zero
        weights = weights.masked_fill(scores.amax(-1, keepdim=True) == -torch.inf, 0.0)
    weights = nn.functional.dropout(weights.to(query.dtype), p=dropout, training=dropout > 0)
    read = _grouped(rows.fold(weights[..., :size]), prefix.value)  # (B, H, k*T, D)
    read = rows.unfold(read.transpose(1, 2), length).transpose(1, 2)
    return read + _grouped(weights[..., size:], value), weights


def _grouped(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(n, H, M, i) @ (n, Hkv, i, j) -> (n, H, M, j): the heads of a group are more rows of the same product."""
    heads, length = left.shape[1:3]
    if heads == right.shape[1]:
        return torch.matmul(left, right)
    of_group = heads // right.shape[1]
    grouped = left.unflatten(1, (right.shape[1], of_group)).flatten(2, 3)
    return torch.matmul(grouped, right).unflatten(2, (of_group, length)).flatten(1, 2)


def _masked(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """-inf where a mask (bool, True = seen; or float, added, its minimum where closed) closes a key."""
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -torch.inf)
    return (scores + mask).masked_fill(mask <= torch.finfo(mask.dtype).min / 2, -torch.inf)


def _own_mask(mask: Any, query: torch.Tensor, key: torch.Tensor, is_causal: bool) -> Any:
    """None where a token sees all of its own text; else that which was given. Transformers makes none for the first
    tokens of a text, which see what is before them; a static cache has empty places after them."""
    length, keys = query.shape[2], key.shape[2]
    if mask is not None or not is_causal or length == 1:
        return mask
    return torch.ones(length, keys, dtype=torch.bool, device=query.device).tril()


def _pieces(query: torch.Tensor, keys: int) -> list[tuple[int, int]]:
    """(first, end) of the text's columns that are computed at once."""
    rows, heads, length = query.shape[:3]
    if length == 1 or torch.compiler.is_compiling():
        return [(0, length)]
    step = max(MOST_SHARED_SCORES // max(rows * heads * keys, 1), 1)
    return [(first, min(first + step, length)) for first in range(0, length, step)]


def _columns(mask: torch.Tensor | None, first: int, end: int) -> torch.Tensor | None:
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., first:end, :]


def _finite(lse: torch.Tensor) -> torch.Tensor:
    return lse.masked_fill(lse == -torch.inf, 0.0)
