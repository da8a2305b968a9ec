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
from .context_masks import NOTHING, MMReading


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


_OF_SELF_ALONE = {"attention_mask", "is_causal", "rotary", "segments"}


class MMScaledEmbedding(nn.Embedding):
    """An embedding whose vectors are multiplied by `scale`; a head tied to it has the vectors as they are."""

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
    """(numbers, width): every vector, by a call, as hooks that bring weights from elsewhere see calls alone."""
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


def _keep(norm: nn.Module, states: torch.Tensor) -> torch.Tensor:
    return states


def _apply(norm: nn.Module, states: torch.Tensor) -> torch.Tensor:
    return norm(states)


def _where(has_context: torch.Tensor | None, crossed: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """A row whose context is empty skips a sublayer whole, bias and norm included."""
    return crossed if has_context is None else torch.where(has_context, crossed, before)


class MMLayer(MMCheckpointingLayer):
    """Residual sublayers in order; pre-norm x + f(norm x), post-norm norm(x + f(x)), f times tanh(gate) where gated.

    Args:
        sublayers: for instance ("self", "mlp"), ("self", "cross", "mlp") or ("cross", "mlp").
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
        self.is_cross_only = "self" not in sublayers
        self.keeps_query = config.residual
        self.norm_before, self.norm_after = (_keep, _apply) if config.norm_position == "post" else (_apply, _keep)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.sublayers = sublayers
        self.steps = tuple(self._STEPS[name] for name in sublayers)
        settings = config.cross_stack() if self.is_cross_only else config
        norm = partial(build_norm, settings.norm_type, settings.hidden_size, settings.layer_norm_eps)
        if "self" in sublayers:
            self.self_attn = MMSelfAttention(config, self_idx)
            self.self_attn_norm = norm()
        if "cross" in sublayers:
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
        if "mlp" in sublayers:
            self.mlp = MMMLP(settings)
            self.mlp_norm = norm()
            self.mlp_gate = build_gate(config.cross_attention_gate, config.hidden_size) if self.is_cross_only else None

    @recomputed
    def forward(
        self,
        hidden_states: torch.Tensor,  # (R, T, width)
        context: torch.Tensor
        | None = None,  # (B, S, context_size); positional, so that reentrant checkpointing sees it
        reading: MMReading = NOTHING,  # what each row may read of its context; nothing: there is none
        **of_self: Any,  # the arguments of self-attention; cache and output_attentions are cross-attention's too
    ) -> torch.Tensor:
        if self.is_cross_only and reading.rows is None:
            return hidden_states
        start = hidden_states
        for step in self.steps:
            hidden_states = step(self, hidden_states, context, reading, of_self)
        return _where(reading.has_context, hidden_states, start) if self.is_cross_only else hidden_states

    def _self_attend(self, hidden_states, context, reading, of_self) -> torch.Tensor:
        normed = self.norm_before(self.self_attn_norm, hidden_states)
        attended, _ = self.self_attn(normed, **of_self)
        return self.norm_after(self.self_attn_norm, hidden_states + self._gated(None, attended))

    def _cross_attend(self, hidden_states, context, reading: MMReading, of_self) -> torch.Tensor:
        if reading.rows is None:
            return hidden_states
        normed = self.norm_before(self.cross_attn_norm, hidden_states)
        shared = {name: value for name, value in of_self.items() if name not in _OF_SELF_ALONE}
        attended, _ = self.cross_attn(normed, context, reading.rows, reading.mask, **(reading.keys or {}), **shared)
        kept = hidden_states if self.keeps_query else torch.zeros_like(hidden_states)
        crossed = self.norm_after(self.cross_attn_norm, kept + self._gated(self.cross_attn_gate, attended))
        return _where(reading.has_context, crossed, hidden_states)

    def _feed_forward(self, hidden_states, context, reading, of_self) -> torch.Tensor:
        fed = self.mlp(self.norm_before(self.mlp_norm, hidden_states))
        return self.norm_after(self.mlp_norm, hidden_states + self._gated(self.mlp_gate, fed))

    def _gated(self, gate: torch.Tensor | None, change: torch.Tensor) -> torch.Tensor:
        change = self.dropout(change) if self.training else change
        return change if gate is None else torch.tanh(gate) * change

    _STEPS = {"self": _self_attend, "cross": _cross_attend, "mlp": _feed_forward}
