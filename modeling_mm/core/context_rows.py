"""Which text row reads which context (MMRows), and what it may read there (MMReading).

Cross-attention is not causal, so the k rows of a context are just more queries against the same keys:

    (R, H, T, D) --fold--> (B, H, k*T, D)   attends to keys (B, Hkv, S, D)   --unfold--> (R, T, H, D)

Keys and values are never copied per row. Contexts are packed, so lengths say what is padding; ranges narrow single
text columns. The Triton kernels read both directly, every other implementation takes a mask.
R rows, B contexts, k rows per context, H heads, T text tokens, S context tokens, D head width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers.masking_utils import create_bidirectional_mask

from .input_checks import INTEGERS, check_tensors


class MMRows:
    """The plan that maps R rows to B contexts; made once per forward and kept by the cache.

    Args:
        num_rows: R.
        num_contexts: B.
        context_index: int64 (R,), row -> context, any order. None: R = k*B, row r reads context r // k.
        name: of the index, for errors.

    Contiguous equal counts fold by a view. Otherwise rows are gathered into k = (largest count) places per context;
    the spare places repeat row 0 and are dropped on unfold.

    Raises: ValueError if R is not a multiple of B without an index, or an index is out of range or misshapen.
    """

    def __init__(
        self,
        num_rows: int,
        num_contexts: int,
        context_index: torch.Tensor | None = None,
        name: str = "context_index",
    ):
        self.num_rows, self.num_contexts = num_rows, num_contexts
        self.given = context_index
        self.context_index: torch.Tensor | None = None
        self.place: torch.Tensor | None = None
        self.row_at: torch.Tensor | None = None
        self.order: torch.Tensor | None = None
        self.bounds: Any = None  # (B + 1,) where rows are gathered
        if context_index is None:
            if num_contexts == 0 or num_rows % num_contexts:
                raise ValueError(
                    f"{num_rows} text rows and {num_contexts} contexts: without {name} the rows must be a "
                    f"multiple of the contexts; pass {name} ({num_rows},) to say which row reads which context"
                )
            # written as a constant so that export specialises on one row per context
            self.rows_per_context = 1 if num_rows == num_contexts else num_rows // num_contexts
        else:
            self._plan(self._checked(context_index, name))
        # whether row r reads context r, so that nothing has to be folded
        self.is_one_each = self.place is None and self.rows_per_context == 1

    def _checked(self, index: torch.Tensor, name: str) -> torch.Tensor:
        check_tensors(**{name: index})
        if index.ndim != 1 or index.shape[0] != self.num_rows or index.dtype not in INTEGERS:
            raise ValueError(
                f"{name} must be int64 ({self.num_rows},), one context per text row; "
                f"got {index.dtype} {tuple(index.shape)}"
            )
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.num_contexts:
            raise ValueError(
                f"{name} must be in 0..{self.num_contexts - 1}; got {int(index.min())}..{int(index.max())}"
            )
        return index.long()

    def _plan(self, index: torch.Tensor) -> None:
        rows = torch.arange(self.num_rows, device=index.device)
        if self.num_contexts and self.num_rows % self.num_contexts == 0:
            self.rows_per_context = self.num_rows // self.num_contexts
            if torch.equal(index, rows // max(self.rows_per_context, 1)):
                return  # the index says what no index says: fold by a view
        counts = torch.bincount(index, minlength=self.num_contexts)
        self.rows_per_context = int(counts.max())  # the one read on the host
        order = torch.argsort(index, stable=True)
        first = counts.cumsum(0) - counts
        place = torch.empty_like(index)
        place[order] = rows - first[index[order]]
        row_at = index.new_zeros(self.num_contexts, self.rows_per_context)
        row_at[index, place] = rows
        self.context_index, self.place, self.row_at = index, place, row_at
        self.order = None if torch.equal(order, rows) else order
        self.bounds = torch.nn.functional.pad(counts.cumsum(0), (1, 0))

    def fold(self, states: torch.Tensor) -> torch.Tensor:
        """(R, H, T, D) -> (B, H, k*T, D)."""
        if self.is_one_each:
            return states
        _, heads, length, width = states.shape
        if self.row_at is None:
            states = states.view(self.num_contexts, self.rows_per_context, heads, length, width)
        else:
            states = states[self.row_at]
        return states.transpose(1, 2).reshape(self.num_contexts, heads, self.rows_per_context * length, width)

    def unfold(self, states: torch.Tensor, length: int) -> torch.Tensor:
        """(B, k*T, ...) -> (R, T, ...)."""
        if self.is_one_each:
            return states
        states = states.reshape(self.num_contexts, self.rows_per_context, length, *states.shape[2:])
        return states.flatten(0, 1) if self.place is None else states[self.context_index, self.place]

    @property
    def is_ragged(self) -> bool:
        """Whether contexts have different numbers of rows: folding then leaves spare places, packing none."""
        return self.num_rows != self.num_contexts * self.rows_per_context

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """(R, H, T, D) -> (1, H, R*T, D), the rows of context 0, then those of context 1 and so on."""
        states = states if self.order is None else states[self.order]
        return states.transpose(0, 1).flatten(1, 2)[None]

    def unpack(self, states: torch.Tensor, length: int) -> torch.Tensor:
        """(1, R*T, ...) -> (R, T, ...)."""
        states = states.unflatten(1, (self.num_rows, length))[0]
        return states if self.order is None else states[torch.argsort(self.order)]

    def cu_rows(self, length: int) -> torch.Tensor:
        """int32 (B + 1,), where the queries of each context begin in `pack`, and their number."""
        return (self.bounds * length).to(torch.int32)

    def index(self, device: torch.device | str | None = None) -> torch.Tensor:
        """int64 (R,), the context of each row."""
        if self.context_index is not None:
            return self.context_index.to(device)
        return torch.arange(self.num_rows, device=device) // self.rows_per_context

    def agrees_with(self, context_index: torch.Tensor) -> bool:
        """Whether an index agrees with this plan. The plan's own tensor is not read: generate() passes it again."""
        if context_index is self.given:
            return True
        return torch.equal(self.index(context_index.device), context_index.long())

    def per_row(self, values: torch.Tensor) -> torch.Tensor:
        """(B, ...) of the contexts -> (R, ...) of the rows that read them."""
        if self.context_index is None:
            return values.repeat_interleave(self.rows_per_context, 0)
        return values[self.context_index]


# ---- what a row may read of its context ---------------------------------------------------------------------------


class MMReading(NamedTuple):
    """rows None: there is no context. has_context bool (R, 1, 1), rows whose context is not empty; None: all. A
    row whose context is empty skips what read it whole, bias and norm included.

    Either mask (of the implementation's kind over (B, 1, k*T, S)) or keys (the arguments of mm_triton) says which
    tokens a query may see; without both it sees all. without_mlp bool (R, T, 1): tokens for which layers of their own
    leave out the MLP; None: none.
    """

    rows: MMRows | None = None
    has_context: torch.Tensor | None = None
    mask: Any = None
    keys: dict[str, torch.Tensor | None] | None = None
    without_mlp: torch.Tensor | None = None


NOTHING = MMReading()


def columns_of(ranges: torch.Tensor, past: int | torch.Tensor, length: int) -> torch.Tensor:
    """(R, n, 2) for the first n text columns -> (R, T, 2) for the columns past .. past + T; the n-th range is also
    that of all later columns."""
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
    config: Any,  # the CallConfig of this call
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
