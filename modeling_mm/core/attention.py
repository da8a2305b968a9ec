"""Multi-head attention, self and cross, through Transformers' attention registry.

Importing this registers the implementation "mm_triton" with a mask function of the same name: cross-attention by the
Triton kernels, everything else by SDPA. Cross-attention then takes lengths and ranges instead of a mask; `kernels_run`
says beforehand whether it will.

R rows, B contexts, k rows per context, T text tokens, S context tokens, H / Hkv heads, D head width.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.utils import logging

from ...kernels.cross_attention import INTERPRETED_DTYPES, KERNEL_DTYPES, MAX_HEAD_DIM, attend, runs_kernels
from ...kernels.interpreter import HAS_TRITON, IS_INTERPRETED
from .cache import MMCache
from .context_rows import MMRows
from .linear import linear
from .plain_attention import (
    MMPrefixMask,
    attend_by_lse,
    attend_with_prefix,
    eager_attention_forward,
    faster_than_sdpa,
)
from .positions import MMSegments, rotate

logger = logging.get_logger(__name__)

MM_TRITON = "mm_triton"
EAGER = "eager"  # computes attention weights; the others do not


class MMNormFromOne(nn.Module):
    """x / rms(x) * (1 + weight), computed in fp32: Gemma's, whose weights are kept as distances from 1."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(size)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed * (1.0 + self.weight.to(wide.dtype))).to(x.dtype)


NORMS = {
    "layer_norm": nn.LayerNorm,
    "layer_norm_no_bias": partial(nn.LayerNorm, bias=False),
    "rms_norm": nn.RMSNorm,
    "rms_norm_from_one": MMNormFromOne,
}


def build_norm(norm_type: str, size: int, eps: float) -> nn.Module:
    """A norm over the last dimension; "none" is the identity."""
    return nn.Identity() if norm_type == "none" else NORMS[norm_type](size, eps=eps)


class CallConfig:
    """What Transformers' mask functions read of a config, as one call has it. The config itself is read by every
    thread, so a call that differs from it never writes to it.
    """

    def __init__(self, config: Any, output_attentions: bool | None = False, is_causal: bool | None = False):
        is_eager = bool(output_attentions) or config.attn_logit_softcapping is not None
        self._attn_implementation = EAGER if is_eager else config._attn_implementation
        self.is_causal = config.is_causal if is_causal is None else is_causal

    def with_prefix(self) -> "CallConfig":
        """That of a text after a shared prefix, whose mask is a plain tensor for every implementation."""
        call = copy.copy(self)
        call._attn_implementation = EAGER if self._attn_implementation == EAGER else "sdpa"
        return call


class MMAttention(nn.Module):
    """Projections, heads and the call of the attention implementation; its kinds are MMSelfAttention and
    MMCrossAttention.

    Args:
        config: the stack's; it holds the attention implementation.
        layer_idx: number of this sublayer among those of its kind (self and cross are counted apart), for the cache.
        source_size: width of the states from which keys and values are computed.
        settings: its settings, if they are not the stack's own config (`cross_stack()`).
    """

    is_cross_attention = False
    softcap: float | None = None  # of the scores
    is_causal = False  # causality is always passed, never taken from the module

    def __init__(self, config: Any, layer_idx: int, source_size: int, settings: Any = None):
        super().__init__()
        settings = config if settings is None else settings
        self.config, self.layer_idx, self.head_dim = config, layer_idx, settings.head_dim
        self.num_key_value_groups = settings.num_attention_heads // settings.num_key_value_heads
        self.scaling = self.head_dim**-0.5 if settings.attention_scale is None else settings.attention_scale
        self.dropout = float(settings.attention_dropout)

        width, eps = settings.hidden_size, settings.layer_norm_eps
        inner, inner_kv = settings.num_attention_heads * self.head_dim, settings.num_key_value_heads * self.head_dim
        bias = settings.attention_bias
        biased = bias if isinstance(bias, str) else "qkvo" if bias else ""
        self.q_proj = nn.Linear(width, inner, bias="q" in biased)
        self.k_proj = nn.Linear(source_size, inner_kv, bias="k" in biased)
        self.v_proj = nn.Linear(source_size, inner_kv, bias="v" in biased)
        self.o_proj = nn.Linear(inner, width, bias="o" in biased)
        has_norm = settings.qk_norm != "none"  # of each head's queries and keys
        self.q_norm = build_norm(settings.qk_norm, self.head_dim, eps) if has_norm else None
        self.k_norm = build_norm(settings.qk_norm, self.head_dim, eps) if has_norm else None

    def _heads(self, projected: torch.Tensor, norm: nn.Module | None = None, rotary: Any = None) -> torch.Tensor:
        """(n, T, H*D) -> (n, H, T, D), normed and turned by cosines and sines where there are any."""
        heads = projected.view(*projected.shape[:2], -1, self.head_dim).transpose(1, 2)
        heads = heads if norm is None else norm(heads)
        return heads if rotary is None else rotate(heads, rotary)

    def _attend(self, query, key, value, attention_mask, output_attentions=None, implementation=None, **kwargs):
        """softmax(Q K^T * scaling + mask) V by the implementation of this call: (B, Q, H, D), the weights or None."""
        implementation = implementation or (EAGER if output_attentions else self.config._attn_implementation)
        if self.softcap is not None:
            implementation = EAGER
        elif implementation == "flex_attention" and torch.is_tensor(attention_mask):
            implementation = "sdpa"  # a range per query is a plain mask, which flex attention does not take
        dropout = self.dropout if self.training else 0.0
        if implementation == "sdpa" and (self.num_key_value_groups > 1 or query.dtype == torch.bfloat16):
            output = faster_than_sdpa(self, query, key, value, attention_mask, dropout, kwargs.get("is_causal"))
            if output is not None:
                return output, None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        return attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)


class MMSelfAttention(MMAttention):
    """A text's, picture's or sound's tokens read each other."""

    def __init__(self, config: Any, layer_idx: int):
        super().__init__(config, layer_idx, config.hidden_size)
        self.softcap = config.attn_logit_softcapping

    def forward(
        self,
        hidden_states: torch.Tensor,  # (R, T, width)
        attention_mask: Any = None,  # of the implementation's kind: (R, 1, T, past + T) or a BlockMask
        past_key_values: MMCache | None = None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,  # cosines and sines (R or 1, 1, T, D)
        segments: MMSegments | None = None,  # a long text attends within its segments
        keys_only: bool = False,  # only writes keys and values into the cache
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        key = self._heads(linear(self.k_proj, hidden_states), self.k_norm, rotary)  # (R, Hkv, T, D)
        value = self._heads(linear(self.v_proj, hidden_states))
        if keys_only and past_key_values is not None:
            past_key_values.self_attention_cache.update(key, value, self.layer_idx)
            return hidden_states, None
        query = self._heads(linear(self.q_proj, hidden_states), self.q_norm, rotary)  # (R, H, T, D)
        if segments is not None:
            return self._attend_in_segments(
                segments, hidden_states, query, (key, value), attention_mask, rotary, **kwargs
            )
        if past_key_values is not None:
            key, value = past_key_values.self_attention_cache.update(key, value, self.layer_idx)
        if isinstance(attention_mask, MMPrefixMask) and past_key_values is not None:
            prefix = past_key_values.prefix_keys(self.layer_idx)
            output, weights = self._attend_after(prefix, query, key, value, attention_mask, **kwargs)
        else:
            output, weights = self._attend(query, key, value, attention_mask, **kwargs)
        return linear(self.o_proj, output.flatten(2)), weights

    def _attend_after(
        self, prefix, query, key, value, mask, is_causal, output_attentions=None, implementation=None, **_
    ):
        """A prefix that rows share is read where it is held, by the kernel where it runs."""
        implementation = implementation or self.config._attn_implementation
        dropout = self.dropout if self.training else 0.0
        takes_lengths = implementation == MM_TRITON and not output_attentions and mask.before is None
        takes_lengths = takes_lengths and self.softcap is None
        if takes_lengths and why_not(query, self.head_dim, dropout) is None:
            return attend_by_lse(query, prefix, key, value, mask, self.scaling, is_causal), None
        output, weights = attend_with_prefix(
            query, prefix, key, value, mask, self.scaling, dropout, is_causal, self.softcap
        )
        return output, weights if output_attentions or implementation == EAGER else None

    def _attend_in_segments(self, segments, hidden_states, query, own, attention_mask, rotary, **kwargs):
        """The states carried over from the segment before have no gradient."""
        carried = own
        if torch.is_grad_enabled():
            earlier = hidden_states.detach()
            key = self._heads(linear(self.k_proj, earlier), self.k_norm, rotary)
            carried = key, self._heads(linear(self.v_proj, earlier))
        key, value = segments.fold_keys(own, carried)
        output, weights = self._attend(segments.fold(query), key, value, attention_mask, **kwargs)
        return linear(self.o_proj, segments.unfold(output).flatten(2)), segments.unfold_weights(weights)


class MMCrossAttention(MMAttention):
    """Rows read a context: the rows of one context are more queries of the same keys.

    Args:
        context_width: width of the context tokens.
        context_norm: norm them first.
        append_queries: the queries are keys too, before those of the context (a perceiver's latents).
    """

    is_cross_attention = True

    def __init__(
        self,
        config: Any,
        layer_idx: int,
        context_width: int,
        settings: Any = None,
        context_norm: bool = False,
        append_queries: bool = False,
    ):
        super().__init__(config, layer_idx, context_width, settings)
        settings = config if settings is None else settings
        self.append_queries = append_queries
        self.memory_norm = build_norm(
            settings.norm_type if context_norm else "none", context_width, settings.layer_norm_eps
        )

    def forward(
        self,
        hidden_states: torch.Tensor,  # (R, T, width)
        context: Any,  # (B, S, context_width); None once the cache holds it
        rows: MMRows,
        attention_mask: Any = None,  # of the implementation's kind: (B, 1, k*T, S) or a BlockMask
        past_key_values: MMCache | None = None,
        key_lengths: torch.Tensor | None = None,  # where no mask says it: int32 (B,)
        row_ranges: torch.Tensor | None = None,  # int32 (B, k*T, 2), packed (1, R*T, 2)
        cu_rows: torch.Tensor | None = None,  # int32 (B + 1,): ragged rows are packed, not folded
        is_causal: bool = False,  # of the text: never of what it reads
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        length = hidden_states.shape[1]
        place, place_back = (rows.fold, rows.unfold) if cu_rows is None else (rows.pack, rows.unpack)
        query = place(
            self._heads(linear(self.q_proj, hidden_states), self.q_norm)
        )  # (B, H, k*T, D), packed (1, H, R*T, D)
        if past_key_values is None:
            key, value = self.project_context(context, hidden_states)
        else:
            key, value = past_key_values.context_states(self.layer_idx, self.project_context, context)
        kernel = {"key_lengths": key_lengths, "row_ranges": row_ranges, "cu_rows": cu_rows}
        output, weights = self._attend(query, key, value, attention_mask, is_causal=False, **kernel, **kwargs)
        # flex returns its log-sum-exp here; what needs no unfolding stays the tensor that gradients flow through
        if weights is not None and weights.ndim == 4 and not rows.is_one_each:
            weights = rows.unfold(weights.transpose(1, 2), length).transpose(1, 2)  # (R, H, T, S)
        return linear(self.o_proj, place_back(output, length).flatten(2)), weights

    def project_context(self, context: torch.Tensor, queries: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, Hkv, S, D) of a context (B, S, context_width), as a cache holds them."""
        source = self.memory_norm(context)
        if self.append_queries:
            source = torch.cat([queries, source], dim=1)
        return self._heads(linear(self.k_proj, source), self.k_norm), self._heads(linear(self.v_proj, source))


@contextmanager
def weights_of(modules: Iterable[MMAttention]) -> Iterator[list[torch.Tensor]]:
    """The weights that these modules return inside the `with`, in the order of their calls; of this thread's calls."""
    found: list[torch.Tensor] = []
    thread = get_ident()

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if get_ident() == thread:
            found.append(output[1])

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


# ---- "mm_triton": cross-attention by the Triton kernels -------------------------------------------------------------


def why_not(tensor: torch.Tensor, head_dim: int, dropout: float = 0.0) -> str | None:
    """Why the kernels cannot run for these states (any tensor of their device and dtype); None: they can."""
    if dropout > 0:
        return "attention_dropout > 0 in training"
    if tensor.dtype not in KERNEL_DTYPES:
        return f"dtype {tensor.dtype}"
    if head_dim > MAX_HEAD_DIM:
        return f"head_dim {head_dim} > {MAX_HEAD_DIM}"
    if not runs_kernels(tensor):
        if IS_INTERPRETED and tensor.dtype not in INTERPRETED_DTYPES:
            return f"dtype {tensor.dtype} in Triton's interpreter"
        return f"device {tensor.device.type}" if HAS_TRITON else "Triton is not installed"
    return None


def kernels_run(tensor: torch.Tensor, head_dim: int, dropout: float) -> bool:
    """Whether cross-attention under this implementation reads key_lengths, row_ranges and cu_rows, not a mask."""
    reason = why_not(tensor, head_dim, dropout)
    if reason is not None:
        logger.warning_once(f"{MM_TRITON}: cross-attention is computed by SDPA with folded rows ({reason})")
    return reason is None


def default_implementation() -> str | None:
    """mm_triton where there is an NVIDIA GPU and Triton; None leaves the choice to Transformers."""
    return MM_TRITON if HAS_TRITON and torch.version.hip is None and torch.cuda.is_available() else None


def mm_triton_forward(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, H, M, D); with cu_rows (1, H, M, D)
    key: torch.Tensor,  # (B, Hkv, S, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # bool or float (B, 1, M, S)
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    key_lengths: torch.Tensor | None = None,  # int32 (B,), cross-attention
    row_ranges: torch.Tensor | None = None,  # int32 (B, M, 2), with cu_rows (1, M, 2)
    cu_rows: torch.Tensor | None = None,  # int32 (B + 1,)
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Returns (B, M, H, D). Causality is what the call says, never what the module says of itself."""
    lengths_given = not (key_lengths is None and row_ranges is None and cu_rows is None)
    if attention_mask is not None and lengths_given:
        raise ValueError("pass attention_mask, or key_lengths, row_ranges and cu_rows, not both")
    reason = "self-attention"
    if getattr(module, "is_cross_attention", False) and not is_causal:
        reason = why_not(query, query.shape[-1], dropout)
        if attention_mask is not None:
            reason = "an attention mask of four dimensions"
    if reason is None:
        output = attend(query, key, value, key_lengths, row_ranges, cu_rows, scaling)
        return output.transpose(1, 2), None
    if lengths_given:
        raise ValueError(f"{MM_TRITON} got key_lengths, row_ranges or cu_rows where the kernels do not run ({reason})")
    if is_causal is None and getattr(module, "is_causal", False) and attention_mask is None:
        raise ValueError(f"{MM_TRITON} takes causality only from the call; pass is_causal or an attention_mask")
    logger.info_once(f"{MM_TRITON}: {type(module).__name__} is computed by SDPA ({reason})")
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, is_causal=bool(is_causal), **kwargs
    )


AttentionInterface.register(MM_TRITON, mm_triton_forward)
AttentionMaskInterface.register(MM_TRITON, sdpa_mask)
