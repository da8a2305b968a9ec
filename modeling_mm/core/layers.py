"""The one layer of every MM stack: an ordered list of residual sublayers out of {self, cross, mlp}."""

from collections.abc import Callable
from functools import partial, wraps

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ...configuration.base import MMStackConfig
from .attention import MMAttention, build_norm
from .cache import MMCache
from .context_rows import MMRows
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


class MMLayer(MMCheckpointingLayer):
    """Residual sublayers in order; pre-norm x + f(norm x), post-norm norm(x + f(x)), f times tanh(gate) where gated.

    Args:
        sublayers: for instance ("self", "mlp"), ("self", "cross", "mlp") or ("cross", "mlp").
        self_idx, cross_idx: numbers of the attention sublayers among those of their kind in the stack.
        memory_size: width of what cross-attention reads; None: the config's.
    A layer with cross-attention needs MMTextConfig's settings; one of its own is built by `cross_stack()`.
    """

    def __init__(
        self,
        config: MMStackConfig,
        sublayers: tuple[str, ...] = ("self", "mlp"),
        self_idx: int = 0,
        cross_idx: int = 0,
        memory_size: int | None = None,
    ):
        super().__init__()
        self.sublayers = sublayers
        self.is_cross_only = "self" not in sublayers
        self.is_post_norm = config.norm_position == "post"
        self.keeps_query = config.residual
        self.dropout = nn.Dropout(config.hidden_dropout)

        settings = config.cross_stack() if self.is_cross_only else config

        def norm() -> nn.Module:
            return build_norm(settings.norm_type, settings.hidden_size, settings.layer_norm_eps)

        if "self" in sublayers:
            self.self_attn = MMAttention(config, self_idx)
            self.self_attn_norm = norm()
        if "cross" in sublayers:
            self.cross_attn = MMAttention(
                config,
                cross_idx,
                config.memory_size if memory_size is None else memory_size,
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
        memory: torch.Tensor | None = None,  # (B, S, memory_size); positional, so that reentrant checkpointing sees it
        attention_mask=None,
        context_mask=None,
        rows: MMRows | None = None,  # None: there is no context at all
        has_context: torch.Tensor | None = None,  # bool (R, 1, 1), rows whose context is not empty; None: all
        past_key_values: MMCache | None = None,
        is_causal: bool = False,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        segments: MMSegments | None = None,
        context_keys: dict[str, torch.Tensor | None] | None = None,  # lengths and ranges, instead of context_mask
        **kwargs,
    ) -> torch.Tensor:
        if self.is_cross_only and rows is None:
            return hidden_states
        start = hidden_states
        for sublayer in self.sublayers:
            if sublayer == "self":
                attended = self._around(hidden_states, self.self_attn_norm)
                attended, _ = self.self_attn(
                    attended,
                    attention_mask=attention_mask,
                    past_key_values=past_key_values,
                    is_causal=is_causal,
                    rotary=rotary,
                    segments=segments,
                    **kwargs,
                )
                hidden_states = self._add(hidden_states, attended, self.self_attn_norm)
            elif sublayer == "cross" and rows is not None:
                attended = self._around(hidden_states, self.cross_attn_norm)
                attended, _ = self.cross_attn(
                    attended,
                    memory,
                    attention_mask=context_mask,
                    rows=rows,
                    past_key_values=past_key_values,
                    **(context_keys or {}),
                    **kwargs,
                )
                kept = hidden_states if self.keeps_query else torch.zeros_like(hidden_states)
                crossed = self._add(kept, attended, self.cross_attn_norm, self.cross_attn_gate)
                hidden_states = self._where(has_context, crossed, hidden_states)
            elif sublayer == "mlp":
                fed = self.mlp(self._around(hidden_states, self.mlp_norm))
                hidden_states = self._add(hidden_states, fed, self.mlp_norm, self.mlp_gate)
        return self._where(has_context, hidden_states, start) if self.is_cross_only else hidden_states

    def _around(self, hidden_states: torch.Tensor, norm: nn.Module) -> torch.Tensor:
        return hidden_states if self.is_post_norm else norm(hidden_states)

    def _add(self, hidden_states, change, norm: nn.Module, gate: torch.Tensor | None = None) -> torch.Tensor:
        change = self.dropout(change)
        hidden_states = hidden_states + (change if gate is None else torch.tanh(gate) * change)
        return norm(hidden_states) if self.is_post_norm else hidden_states

    @staticmethod
    def _where(has_context: torch.Tensor | None, crossed: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """A row whose context is empty skips the sublayer whole, bias and norm included."""
        return crossed if has_context is None else torch.where(has_context, crossed, before)
