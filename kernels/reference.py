"""Cross-attention in plain torch: the specification that every faster path is compared with.

B contexts · H query heads · Hkv key heads (H a multiple of it) · M queries · N keys · D head width.
Rows of a context are just more queries, so M counts the rows times their tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Attended(NamedTuple):
    """output (B, H, M, D); lse (B, H, M), log of the sum of exp(score); mass (B, H, N), what each key was given."""

    output: Tensor
    lse: Tensor
    mass: Tensor


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
        row_ranges: int (B, M, 2), with cu_rows (1, M, 2): query m sees the keys low <= n < high alone.
        cu_rows: int (B + 1,), context b has the queries cu_rows[b] to cu_rows[b + 1]; mass is then (B, H, N) too.
        scale: None is D ** -0.5.
    Source: Vaswani et al. 2017 (arXiv:1706.03762) eq. 1; the shared keys of several heads: arXiv:2305.13245.
    """
    if cu_rows is not None:
        bounds = cu_rows.tolist()
        parts = []
        for context, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
            one = slice(context, context + 1)
            ranges = None if row_ranges is None else row_ranges[:, first:last]
            allowed = _allowed(key[one], last - first, _of(key_lengths, one), _of(key_mask, one), ranges)
            parts.append(_attend(query[:, :, first:last], key[one], value[one], allowed, scale))
        outputs, lses, masses = zip(*parts, strict=True)
        return Attended(torch.cat(outputs, 2), torch.cat(lses, 2), torch.cat(masses, 0))
    return _attend(query, key, value, _allowed(key, query.shape[2], key_lengths, key_mask, row_ranges), scale)


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
    # A row of -inf alone is 0 / 0: it gets a finite score first, and zero weights after.
    weights = torch.softmax(scores.masked_fill(~sees[..., None], 0.0), dim=-1) * sees[..., None]
    lse = torch.logsumexp(scores.masked_fill(~sees[..., None], 0.0), dim=-1).masked_fill(~sees, float("-inf"))
    return Attended(weights @ value, lse, weights.sum(2))
