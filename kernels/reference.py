"""Cross-attention in plain torch: the specification that every faster path is compared with.

B contexts · H query heads · Hkv key heads (H a multiple of it) · M queries · N keys · D head width.
Rows of a context are just more queries, so M counts the rows times their tokens.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Attended(NamedTuple):
    """output (B, H, M, D); lse (B, H, M), log of the sum of exp(score); mass (B, H, N), what each key was given.

    From flash_cross_attention lse and mass are None unless they were asked for.
    """

    output: Tensor
    lse: Any
    mass: Any


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    key_lengths: Tensor | None = None,
    key_mask: Tensor | None = None,
    row_ranges: Tensor | None = None,
    cu_rows: Tensor | None = None,
    scale: float | None = None,
) -> Attended:
    """softmax(query key^T * scale) value over the keys that a query may see, in the dtype of the inputs.

    A query that may see no key gives output 0, lse -inf and no gradient.

    Args:
        query: (B, H, M, D); with cu_rows (1, H, M, D), the queries of all contexts one after another.
        key, value: (B, Hkv, N, D).
        key_lengths: int (B,), only the first that many keys of a context are real.
        key_mask: bool (B, N), True = may be seen.
        row_ranges: int (B, M, 2), with cu_rows (1, M, 2): query m sees only the keys low <= n < high.
        cu_rows: int (B + 1,), context b has the queries cu_rows[b] to cu_rows[b + 1]; mass is then (B, H, N) too.
        scale: None is D ** -0.5.
    Source: Vaswani et al. 2017 (arXiv:1706.03762) eq. 1; the shared keys of several heads: arXiv:2305.13245.
    """
    rest = (key_lengths, key_mask, row_ranges)
    if cu_rows is not None:
        every = contexts(query, key, *rest, cu_rows)
        parts = [_attend(query[rows], key[one], value[one], seen, scale) for rows, one, seen in every]
        if not parts:
            return Attended(torch.zeros_like(query), query.new_zeros(query.shape[:3]), key.new_zeros(key.shape[:3]))
        outputs, lses, masses = zip(*parts, strict=True)
        return Attended(torch.cat(outputs, 2), torch.cat(lses, 2), torch.cat(masses, 0))
    return _attend(query, key, value, _allowed(key, query.shape[2], *rest), scale)


def contexts(
    query: Tensor,
    key: Tensor,
    key_lengths: Tensor | None = None,
    key_mask: Tensor | None = None,
    row_ranges: Tensor | None = None,
    cu_rows: Tensor | None = None,
) -> Iterator[tuple[tuple[slice, slice, slice], slice, Tensor]]:
    """For each context its rows, as query[rows] (1, H, M, D), itself, as key[one] (1, Hkv, N, D), and bool (1, M, N),
    what each of its queries may see."""
    bounds = None if cu_rows is None else cu_rows.tolist()
    for context in range(len(key)):
        one = packed = slice(context, context + 1)
        of_context = slice(None)
        if bounds is not None:
            packed, of_context = slice(None), slice(bounds[context], bounds[context + 1])
        rows = (packed, slice(None), of_context)
        ranges = None if row_ranges is None else row_ranges[packed, of_context]
        yield rows, one, _allowed(key[one], query[rows].shape[2], _of(key_lengths, one), _of(key_mask, one), ranges)


def _of(values: Tensor | None, contexts: slice) -> Tensor | None:
    return None if values is None else values[contexts]


def _allowed(key: Tensor, queries: int, lengths: Tensor | None, mask: Tensor | None, ranges: Tensor | None) -> Tensor:
    """bool (B, M, N), what each query may see."""
    batch, _, size, _ = key.shape
    place = torch.arange(size, device=key.device)
    allowed = torch.ones(batch, queries, size, dtype=torch.bool, device=key.device)
    if lengths is not None:
        allowed = allowed & (place < lengths[:, None])[:, None]
    if mask is not None:
        allowed = allowed & mask.bool()[:, None]
    if ranges is not None:
        allowed = allowed & (place >= ranges[..., :1]) & (place < ranges[..., 1:])
    return allowed


def _attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scale: float | None) -> Attended:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scale is None else scale)  # (B, H, M, N)
    scores = scores.masked_fill(~allowed[:, None], float("-inf"))
    sees = allowed.any(-1)[:, None]  # (B, 1, M)
    # A row with only -inf is 0 / 0: it gets a finite score first, and zero weights after.
    weights = torch.softmax(scores.masked_fill(~sees[..., None], 0.0), dim=-1) * sees[..., None]
    lse = torch.logsumexp(scores.masked_fill(~sees[..., None], 0.0), dim=-1).masked_fill(~sees, float("-inf"))
    return Attended(weights @ value, lse, weights.sum(2))


def reference_backward(
    grad: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    *,
    key_lengths: Tensor | None = None,
    key_mask: Tensor | None = None,
    row_ranges: Tensor | None = None,
    cu_rows: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value, from those of output and lse (None: not used), by the formulas.

    P = exp(S - lse), dS = P (dO V^T - rowsum(dO O) + dlse), dV = P^T dO, dQ = scale dS K, dK = scale dS^T Q.
    Source: Dao et al. 2022 (arXiv:2205.14135), algorithm 4.
    """
    rest = (key_lengths, key_mask, row_ranges)
    if cu_rows is None:
        allowed = _allowed(key, query.shape[2], *rest)
        return _gradients(grad, grad_lse, query, key, value, output, lse, allowed, scale)
    parts = []
    for rows, one, seen in contexts(query, key, *rest, cu_rows):
        lse_rows = None if grad_lse is None else grad_lse[rows]
        states = (query[rows], key[one], value[one], output[rows], lse[rows])
        parts.append(_gradients(grad[rows], lse_rows, *states, seen, scale))
    if not parts:
        return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    of_query, of_key, of_value = zip(*parts, strict=True)
    return torch.cat(of_query, 2), torch.cat(of_key, 0), torch.cat(of_value, 0)


def _gradients(grad, grad_lse, query, key, value, output, lse, allowed: Tensor, scale: float | None):
    kv_heads, groups = key.shape[1], query.shape[1] // key.shape[1]
    scale = query.shape[3] ** -0.5 if scale is None else scale
    keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ keys.transpose(2, 3) * scale
    weights = torch.exp(scores - lse[..., None]).masked_fill(~allowed[:, None], 0.0)
    delta = (grad * output).sum(-1) - (0.0 if grad_lse is None else grad_lse)
    of_scores = (weights * (grad @ values.transpose(2, 3) - delta[..., None])).masked_fill(~allowed[:, None], 0.0)
    of_keys = of_scores.transpose(2, 3) @ query * scale
    of_values = weights.transpose(2, 3) @ grad
    return (
        of_scores @ keys * scale,
        of_keys.unflatten(1, (kv_heads, groups)).sum(2),
        of_values.unflatten(1, (kv_heads, groups)).sum(2),
    )


def empty_states(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(B, heads, n, D) with the memory layout of (B, n, heads, D), in which a projection writes and reads it."""
    batch, heads, length, width = like.shape
    return like.new_empty(batch, length, heads, width, dtype=dtype).transpose(1, 2)
