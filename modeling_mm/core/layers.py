"""The one layer of every MM stack: an ordered list of residual sublayers out of {self, cross, mlp}."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ...configuration.base import MMStackConfig
from .attention import MMCrossAttention, MMSelfAttention, build_norm
from .context_rows import NOTHING, MMReading
from .segments import MMSegments


class MMMLP(nn.Module):
    """down(act(up x)), or gated: down(act(gate x) * up x)."""

    def __init__(self, config: MMStackConfig):
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.act = ACT2FN[config.hidden_act]
        self.gate_proj = nn.Linear(width, inner, bias=bias) if config.gated_mlp else None
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.act(self.up_proj(hidden_states)))
        return self.down_proj(self.act(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class MMScaledEmbedding(nn.Embedding):
    """An embedding whose vectors are multiplied by `scale`; a head tied to it uses the vectors without the factor."""

    def __init__(self, *args, scale: float, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = scale

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * self.scale


def build_embedding(numbers: int, width: int, padding_idx: int | None, scale: float) -> nn.Embedding:
    """Vectors of tokens, each `scale` times its row."""
    if scale == 1.0:
        return nn.Embedding(numbers, width, padding_idx=padding_idx)
    return MMScaledEmbedding(numbers, width, padding_idx=padding_idx, scale=scale)


def whole_table(embedding: nn.Embedding, device: torch.device) -> torch.Tensor:
    """(numbers, width): every vector; called as a module so that offloading hooks run."""
    return embedding(torch.arange(embedding.num_embeddings, device=device))


def build_gate(kind: str, width: int) -> nn.Parameter | None:
    """The factor tanh(gate) of a gated sublayer, closed (0) at the start; None: no gate."""
    return None if kind == "none" else nn.Parameter(torch.zeros(1 if kind == "tanh" else width))


def recomputed(forward: Callable) -> Callable:
    """Wraps the forward of a layer: in training with activation checkpointing its backward computes it again.

    Not in a call with a cache, which the second run would write once more: that call keeps its activations.
    """

    @wraps(forward)
    def wrapper(self, *args, **kwargs):
        if self.gradient_checkpointing and self.training and kwargs.get("past_key_values") is None:
            return self._gradient_checkpointing_func(partial(forward, self, **kwargs), *args)
        return forward(self, *args, **kwargs)

    return wrapper


class MMCheckpointingLayer(GradientCheckpointingLayer):
    """A layer that `recomputed` wraps; Transformers' own wrapper drops the cache of a call and answers without it."""

    def __init_subclass__(cls, **kwargs):
        super(GradientCheckpointingLayer, cls).__init_subclass__(**kwargs)


class MMLayer(MMCheckpointingLayer):
    """Residual sublayers in order; pre-norm x + f(norm x), post-norm norm(x + f(x)), f times tanh(gate) where gated.

    Args:
        sublayers: of ("self", "cross", "mlp"), in this order; for instance ("self", "mlp") or ("cross", "mlp").
        self_idx, cross_idx: numbers of the attention sublayers among those of their kind in the stack.
        context_size: width of what cross-attention reads; None: the config's.
    A layer with cross-attention needs MMTextConfig's settings; one of its own is built by `cross_stack()`.
    """

    def __init__(
        self,
        config: Any,
        sublayers: tuple[str, ...] = ("self", "mlp"),
        self_idx: int = 0,
        cross_idx: int = 0,
        context_size: int | None = None,
    ):
        super().__init__()
        self.sublayers = sublayers
        self.has_self, self.has_cross, self.has_mlp = (kind in sublayers for kind in ("self", "cross", "mlp"))
        self.is_cross_only = not self.has_self
        self.is_pre_norm = config.norm_position != "post"
        self.keeps_query = config.residual
        self.dropout = nn.Dropout(config.hidden_dropout)
        settings = config.cross_stack() if self.is_cross_only else config
        norm = partial(build_norm, settings.norm_type, settings.hidden_size, settings.layer_norm_eps)
        if self.has_self:
            self.self_attn = MMSelfAttention(config, self_idx)
            self.self_attn_norm = norm()
        if self.has_cross:
            self.cross_attn = MMCrossAttention(
                config,
                cross_idx,
                config.memory_size if context_size is None else context_size,
                config.cross_stack(),
                config.cross_attention_memory_norm,
                config.append_latents,
            )
            self.cross_attn_norm = norm()
            self.cross_attn_gate = build_gate(config.cross_attention_gate, config.hidden_size)
        if self.has_mlp:
            self.mlp = MMMLP(settings)
            self.mlp_norm = norm()
            self.mlp_gate = build_gate(config.cross_attention_gate, config.hidden_size) if self.is_cross_only else None

    @recomputed
    def forward(
        self,
        hidden_states: torch.Tensor,  # (R, T, width)
        context: torch.Tensor | None = None,  # (B, S, context_size); by place: reentrant checkpointing sees no others
        reading: MMReading = NOTHING,  # the part of its context that each row may read; empty: no context
        attention_mask: Any = None,  # this and the next three are self-attention's
        is_causal: bool = False,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        segments: MMSegments | None = None,
        **kwargs: Any,  # past_key_values, output_attentions, implementation, and what that takes
    ) -> torch.Tensor:
        if self.is_cross_only and reading.rows is None:
            return hidden_states
        states = hidden_states
        if self.has_self:
            norm = self.self_attn_norm
            attended, _ = self.self_attn(
                self._normed(norm, states),
                attention_mask,
                rotary=rotary,
                segments=segments,
                is_causal=is_causal,
                **kwargs,
            )
            states = self._added(norm, states, attended)
        if self.has_cross and reading.rows is not None:
            norm = self.cross_attn_norm
            normed = self._normed(norm, states)
            attended, _ = self.cross_attn(
                normed, context, reading.rows, reading.mask, **(reading.keys or {}), **kwargs
            )
            kept = states if self.keeps_query else torch.zeros_like(states)
            crossed = self._added(norm, kept, attended, self.cross_attn_gate)
            states = reading.where_not_empty(crossed, states)
        if self.has_mlp:
            norm = self.mlp_norm
            states = self._added(norm, states, self.mlp(self._normed(norm, states)), self.mlp_gate)
        return reading.where_not_empty(states, hidden_states) if self.is_cross_only else states

    def _normed(self, norm: nn.Module, states: torch.Tensor) -> torch.Tensor:
        """What a sublayer reads."""
        return norm(states) if self.is_pre_norm else states

    def _added(
        self, norm: nn.Module, states: torch.Tensor, change: torch.Tensor, gate: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The result of a sublayer."""
        change = self.dropout(change) if self.training else change
        states = states + (change if gate is None else torch.tanh(gate) * change)
        return states if self.is_pre_norm else norm(states)
