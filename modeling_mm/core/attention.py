"""Multi-head attention, self and cross, through Transformers' attention registry.

R rows, B contexts, k rows per context, T text tokens, S context tokens, H / Hkv heads, D head width.
"""

# MMStackConfig fills head_dim and num_key_value_heads in; cross-attention always comes with its row plan.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportOptionalMemberAccess=false, reportOptionalOperand=false

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...configuration.base import MMStackConfig
from . import triton_attention as mm_triton  # noqa: F401  registers the implementation
from .cache import MMCache
from .context_rows import MMRows
from .positions import rotate
from .segments import MMSegments

EAGER = "eager"  # computes attention weights; the others do not
NORMS = {"layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm}


def build_norm(norm_type: str, size: int, eps: float) -> nn.Module:
    """A norm over the last dimension; "none" is the identity."""
    return nn.Identity() if norm_type == "none" else NORMS[norm_type](size, eps=eps)


def implementation_of(config: Any, output_attentions: bool | None) -> str:
    """The attention implementation of one call: the config's, or eager where the weights are asked for."""
    return EAGER if output_attentions else config._attn_implementation


class CallConfig:
    """What Transformers' mask functions read of a config, as one call has it. The config itself is read by every
    thread, so a call that differs from it never writes to it.
    """

    def __init__(self, config: Any, output_attentions: bool | None = False, is_causal: bool = False):
        self._attn_implementation = implementation_of(config, output_attentions)
        self.is_causal = is_causal


def eager_attention_forward(
    module: "MMAttention",
    query: torch.Tensor,  # (B, H, Q, D)
    key: torch.Tensor,  # (B, Hkv, S, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # float, added to the scores, masked entries the dtype's minimum; or bool
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q K^T * scaling + mask) V, in the open. Returns (B, Q, H, D) and the weights (B, H, Q, S).

    A query without a key gives exactly zero, as in SDPA and flex attention; a softmax over a row of equal minima
    alone would give the mean of all values instead.
    """
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
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


class MMAttention(nn.Module):
    """Self-attention, or with `memory_size` cross-attention to a context of that width.

    Args:
        config: the stack's; it holds the attention implementation.
        layer_idx: number of this sublayer among those of its kind (self and cross are counted apart), for the cache.
        memory_size: width of the context tokens; None makes it self-attention.
        settings: what it is built by, where that is not the stack's own config (`cross_stack()`).
        memory_norm: norm the context tokens first.
        append_queries: the queries are keys too, before those of the context (a perceiver's latents).
    """

    def __init__(
        self,
        config: MMStackConfig,
        layer_idx: int,
        memory_size: int | None = None,
        settings: MMStackConfig | None = None,
        memory_norm: bool = False,
        append_queries: bool = False,
    ):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_cross_attention = memory_size is not None
        self.is_causal = False  # causality is always passed, never taken from the module
        self.append_queries = append_queries
        settings = config if settings is None else settings
        self.head_dim = settings.head_dim
        self.num_key_value_groups = settings.num_attention_heads // settings.num_key_value_heads
        self.scaling = self.head_dim**-0.5 if settings.attention_scale is None else settings.attention_scale
        self.dropout = float(settings.attention_dropout)

        width, source = settings.hidden_size, memory_size or settings.hidden_size
        inner, inner_kv = settings.num_attention_heads * self.head_dim, settings.num_key_value_heads * self.head_dim
        bias = settings.attention_bias
        biased = bias if isinstance(bias, str) else "qkvo" * bias
        self.q_proj = nn.Linear(width, inner, bias="q" in biased)
        self.k_proj = nn.Linear(source, inner_kv, bias="k" in biased)
        self.v_proj = nn.Linear(source, inner_kv, bias="v" in biased)
        self.o_proj = nn.Linear(inner, width, bias="o" in biased)
        eps = settings.layer_norm_eps
        self.q_norm = build_norm(settings.qk_norm, self.head_dim, eps)
        self.k_norm = build_norm(settings.qk_norm, self.head_dim, eps)
        if self.is_cross_attention:
            self.memory_norm = build_norm(settings.norm_type if memory_norm else "none", source, eps)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (R, T, width)
        memory: torch.Tensor | None = None,  # (B, S, memory_size), cross only; unread once the cache holds it
        attention_mask=None,  # of the implementation's kind: (R or B, 1, Q, S) or a BlockMask
        rows: MMRows | None = None,  # cross only
        past_key_values: MMCache | None = None,
        is_causal: bool = False,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,  # self only: cosines and sines (R or 1, 1, T, D)
        segments: MMSegments | None = None,  # self only: a long text attends within its segments
        key_lengths: torch.Tensor | None = None,  # cross only, where no mask says it: int32 (B,)
        row_ranges: torch.Tensor | None = None,  # int32 (B, k*T, 2), packed (1, R*T, 2)
        cu_rows: torch.Tensor | None = None,  # int32 (B + 1,): ragged rows are packed, not folded
        output_attentions: bool | None = None,  # the weights are asked for
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        length = hidden_states.shape[1]
        query = self.q_norm(self._split(self.q_proj(hidden_states)))  # (R, H, T, D)
        if self.is_cross_attention:
            query = rows.fold(query) if cu_rows is None else rows.pack(query)  # (B, H, k*T, D), (1, H, R*T, D)
            key, value = self._context_states(hidden_states, memory, past_key_values)
        else:
            query = query if rotary is None else rotate(query, rotary)
            key, value = self._key_value(hidden_states, rotary)
            if segments is not None:
                carried = self._key_value(hidden_states.detach(), rotary) if torch.is_grad_enabled() else (key, value)
                query, key, value = segments.fold(query), *segments.fold_keys((key, value), carried)
            if past_key_values is not None:
                key, value = past_key_values.self_attention_cache.update(key, value, self.layer_idx)
                key, value = past_key_values.behind_prefix(self.layer_idx, key, value)

        implementation = implementation_of(self.config, output_attentions)
        if implementation == "flex_attention" and torch.is_tensor(attention_mask):
            implementation = "sdpa"  # a range per query is a plain mask, which flex attention does not take
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            is_causal=is_causal and not self.is_cross_attention,
            key_lengths=key_lengths,
            row_ranges=row_ranges,
            cu_rows=cu_rows,
            **kwargs,
        )
        if self.is_cross_attention:
            output = rows.unfold(output, length) if cu_rows is None else rows.unpack(output, length)  # (R, T, H, D)
            if weights is not None and weights.ndim == 4:  # flex returns its log-sum-exp here
                weights = rows.unfold(weights.transpose(1, 2), length).transpose(1, 2)  # (R, H, T, S)
        elif segments is not None:
            output, weights = segments.unfold(output), segments.unfold_weights(weights)
        return self.o_proj(output.reshape(*hidden_states.shape[:2], -1)), weights

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        """(n, T, H*D) -> (n, H, T, D)."""
        return states.view(*states.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _key_value(self, source: torch.Tensor, rotary=None) -> tuple[torch.Tensor, torch.Tensor]:
        key = self.k_norm(self._split(self.k_proj(source)))
        return key if rotary is None else rotate(key, rotary), self._split(self.v_proj(source))

    def project_context(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, Hkv, S, D) of a context (B, S, memory_size), as a cache holds them."""
        return self._key_value(self.memory_norm(memory))

    def _context_states(self, hidden_states: torch.Tensor, memory: torch.Tensor | None, cache: MMCache | None):
        def project():
            source = self.memory_norm(memory)
            return self._key_value(torch.cat([hidden_states, source], dim=1) if self.append_queries else source)

        return project() if cache is None else cache.context_states(self.layer_idx, project)
