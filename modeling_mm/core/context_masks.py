"""What the rows of a text may read of their contexts, as the attention implementation wants it said.

R rows, B contexts, k rows per context, T text tokens, S context tokens. Contexts are packed, so lengths say what is
padding; ranges narrow single text columns. The Triton kernels take both as they are, everything else takes a mask.
"""

# Rows come with the context, and layers of a filled cross-attention cache hold keys: decided before.
# Of a config Transformers' mask functions read what a CallConfig has.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers.masking_utils import create_bidirectional_mask

from .attention import CallConfig
from .cache import MMCache
from .context_rows import MMRows


class MMReading(NamedTuple):
    """rows None: there is no context. has_context bool (R, 1, 1), rows whose context is not empty; None: all.

    Either mask (of the implementation's kind over (B, 1, k*T, S)) or keys (the arguments of mm_triton) says which
    tokens a query may see; neither: every one.
    """

    rows: MMRows | None = None
    has_context: torch.Tensor | None = None
    mask: Any = None
    keys: dict[str, torch.Tensor | None] | None = None

    def where_not_empty(self, crossed: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """A row whose context is empty skips what read it whole, bias and norm included."""
        return crossed if self.has_context is None else torch.where(self.has_context, crossed, before)


NOTHING = MMReading()


def columns_of(ranges: torch.Tensor, past: int | torch.Tensor, length: int) -> torch.Tensor:
    """(R, n, 2) for the first n text columns -> (R, T, 2) for the columns past .. past + T; the n-th stands for those
    behind it."""
    columns = (torch.arange(length, device=ranges.device) + past).clamp(max=ranges.shape[1] - 1)
    return ranges[:, columns]


def as_keys(
    rows: MMRows, lengths: torch.Tensor | None, ranges: torch.Tensor | None, length: int
) -> dict[str, torch.Tensor | None]:
    """What the kernels read: lengths (B,), ranges of the queries, and where ragged rows begin, all int32."""
    place = rows.pack if rows.is_ragged else rows.fold
    return {
        "key_lengths": None if lengths is None else lengths.to(torch.int32),
        "row_ranges": None if ranges is None else place(ranges[:, None])[:, 0].to(torch.int32),
        "cu_rows": rows.cu_rows(length) if rows.is_ragged else None,
    }


def as_mask(
    config: CallConfig,
    rows: MMRows,
    lengths: torch.Tensor | None,  # (B,)
    ranges: torch.Tensor | None,  # (R, T, 2)
    size: int,
    inputs_embeds: torch.Tensor,  # (R, T, D), for its dtype and device
):
    """The mask of the implementation's kind over (B, 1, k*T, S); None where every query sees every token."""
    if lengths is None and ranges is None:
        return None
    tokens = torch.arange(size, device=inputs_embeds.device)
    real = tokens.expand(rows.num_contexts, -1) < (size if lengths is None else lengths[:, None])  # (B, S)
    within = None
    if ranges is not None:
        first, end = rows.fold(ranges[:, None])[:, 0].unbind(-1)  # (B, k*T)
        if config._attn_implementation == "flex_attention":  # whose vmap cannot look ranges up
            return ((tokens >= first[..., None]) & (tokens < end[..., None]) & real[:, None])[:, None]
        within = _within(first, end)
    nothing = inputs_embeds.new_empty(())
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=nothing.expand(rows.num_contexts, rows.rows_per_context * inputs_embeds.shape[1], 1),
        attention_mask=real,
        encoder_hidden_states=nothing.expand(*real.shape, 1),
        and_mask_function=within,
    )


def _within(first: torch.Tensor, end: torch.Tensor) -> Callable:
    """A mask function of Transformers: the range of each query, (B, Q) and (B, Q)."""

    def within(batch, head, query, token):
        return (token >= first[batch, query]) & (token < end[batch, query])

    return within


def context_size(cache: MMCache | None, encoder_hidden_states: torch.Tensor | None) -> int:
    """S, of the cached keys or of the context itself."""
    if cache is not None and cache.holds_context:
        return cache.cross_attention_cache.layers[0].keys.shape[2]
    return encoder_hidden_states.shape[1]
