"""Attention in plain torch: in the open, with its weights, and by SDPA where heads share keys.

B contexts or rows, H / Hkv heads, M or Q queries, S keys, D head width.
"""

from functools import cache
from typing import Any

import torch
from torch import nn

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
