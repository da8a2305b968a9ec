"""The one layer of every MM stack, an ordered list of residual sublayers out of {self, cross, mlp}, and the pooler.

n sequences, R rows (texts), B contexts, T tokens, S context tokens, D hidden_size.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from ...configuration.base import MMStackConfig
from .attention import MMCrossAttention, MMSelfAttention, build_norm
from .context_rows import NOTHING, MMReading, MMRows
from .input_checks import may_read_values
from .linear import activated_linear, linear
from .positions import MMSegments

logger = logging.get_logger(__name__)


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
            return activated_linear(self.down_proj, self.act, linear(self.up_proj, hidden_states))
        gate, up = linear(self.gate_proj, hidden_states), linear(self.up_proj, hidden_states)
        return activated_linear(self.down_proj, self.act, gate, up)


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
    """Residual sublayers in order; pre-norm x + f(norm x), post-norm norm(x + f(x)), both x + norm' f(norm x); f (or
    norm' f) times tanh(gate) where gated.

    With parallel_residual the MLP reads what self-attention read: x + attention(norm x) + mlp(norm' x).

    Args:
        sublayers: of ("self", "cross", "mlp"), in this order; for instance ("self", "mlp") or ("cross", "mlp").
        self_idx, cross_idx: numbers of the attention sublayers among those of their kind in the stack.
        context_width: width of what cross-attention reads; None: the config's.
        gate: of self-attention and the MLP of a layer without cross-attention; that of the others is the config's.
    A layer with cross-attention needs MMTextConfig's settings; one of its own is built by `cross_stack()`.
    """

    def __init__(
        self,
        config: Any,
        sublayers: tuple[str, ...] = ("self", "mlp"),
        self_idx: int = 0,
        cross_idx: int = 0,
        context_width: int | None = None,
        gate: str = "none",
    ):
        super().__init__()
        self.sublayers = sublayers
        self.has_self, self.has_cross, self.has_mlp = (kind in sublayers for kind in ("self", "cross", "mlp"))
        self.is_cross_only = not self.has_self
        self.is_pre_norm = config.norm_position != "post"
        self.keeps_query = config.residual
        gate = config.cross_attention_gate if self.is_cross_only else gate
        self.keeps_mlp = self.has_self or config.cross_attention_unread == "attention"  # in a row without a context
        self.is_parallel = self.has_self and config.parallel_residual
        self.dropout = nn.Dropout(config.hidden_dropout)
        settings = config.cross_stack() if self.is_cross_only else config
        norm = partial(build_norm, settings.norm_type, settings.hidden_size, settings.layer_norm_eps)
        # of what a sublayer made; cross-attention is new to such texts, and a norm would let it in at full strength
        made = norm if config.norm_position == "both" and self.has_self else type(None)
        if self.has_self:
            self.self_attn = MMSelfAttention(config, self_idx)
            self.self_attn_norm, self.self_attn_made_norm = norm(), made()
            self.self_attn_gate = build_gate(gate, config.hidden_size)
        if self.has_cross:
            self.cross_attn = MMCrossAttention(
                config,
                cross_idx,
                config.context_width if context_width is None else context_width,
                config.cross_stack(),
                config.cross_attention_memory_norm,
                config.append_latents,
            )
            self.cross_attn_norm = norm()
            self.cross_attn_gate = build_gate(config.cross_attention_gate, config.hidden_size)
        if self.has_mlp:
            self.mlp = MMMLP(settings)
            self.mlp_norm, self.mlp_made_norm = norm(), made()
            self.mlp_gate = build_gate(gate, config.hidden_size)

    @recomputed
    def forward(
        self,
        hidden_states: torch.Tensor,  # (R, T, width)
        context: torch.Tensor | None = None,  # (B, S, context_width); by place: reentrant checkpointing sees no others
        reading: MMReading = NOTHING,  # the part of its context that each row may read; empty: no context
        attention_mask: Any = None,  # this and the next three are self-attention's
        is_causal: bool = False,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        segments: MMSegments | None = None,
        keys_only: bool = False,  # only writes keys and values of self-attention into the cache
        **kwargs: Any,  # past_key_values, output_attentions, implementation, and what that takes
    ) -> torch.Tensor:
        if reading.rows is None and not self.keeps_mlp:
            return hidden_states
        states, is_pre_norm, has_context = hidden_states, self.is_pre_norm, reading.has_context
        if keys_only:
            normed = self.self_attn_norm(states) if is_pre_norm else states
            self.self_attn(normed, rotary=rotary, keys_only=True, **kwargs)
            return states
        if self.has_self:
            norm = self.self_attn_norm
            attended, _ = self.self_attn(
                norm(states) if is_pre_norm else states,
                attention_mask,
                rotary=rotary,
                segments=segments,
                is_causal=is_causal,
                **kwargs,
            )
            states = self._added(norm, states, attended, self.self_attn_gate, self.self_attn_made_norm)
        if self.has_cross and reading.rows is not None:
            norm = self.cross_attn_norm
            normed = norm(states) if is_pre_norm else states
            attended, _ = self.cross_attn(
                normed, context, reading.rows, reading.mask, **(reading.keys or {}), **kwargs
            )
            kept = states if self.keeps_query else torch.zeros_like(states)
            crossed = self._added(norm, kept, attended, self.cross_attn_gate)
            states = crossed if has_context is None else torch.where(has_context, crossed, states)
        if self.has_mlp:
            norm = self.mlp_norm
            crossed, read = states, hidden_states if self.is_parallel else states
            change = self.mlp(norm(read) if is_pre_norm else read)
            states = self._added(norm, states, change, self.mlp_gate, self.mlp_made_norm)
            if self.is_cross_only and reading.without_mlp is not None:
                states = torch.where(reading.without_mlp, crossed, states)
        if self.keeps_mlp or has_context is None:
            return states
        return torch.where(has_context, states, hidden_states)

    def _added(
        self,
        norm: nn.Module,
        states: torch.Tensor,
        change: torch.Tensor,
        gate: torch.Tensor | None = None,
        made_norm: nn.Module | None = None,
    ) -> torch.Tensor:
        """The result of a sublayer, which made `change` of `states`."""
        change = change if made_norm is None else made_norm(change)
        change = self.dropout(change) if self.training else change
        states = states + (change if gate is None else torch.tanh(gate) * change)
        return states if self.is_pre_norm else norm(states)


# ---- one vector per sequence ----------------------------------------------------------------------------------------


def masked_mean(values: torch.Tensor, mask: torch.Tensor | None, dim: int = 1) -> torch.Tensor:
    """The mean along `dim` where the mask is True, zeros where it nowhere is; None: over all.

    The mask has the dimensions of values up to `dim`. What it leaves out may hold anything, so it is not multiplied.
    """
    if mask is None:
        return values.mean(dim)
    mask = mask.bool().reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))
    return values.masked_fill(~mask, 0).sum(dim) / mask.sum(dim).clamp(min=1)


class MMProbe(nn.Module):
    """SigLIP's attentional pool: a learned query attends to the tokens, then x + mlp(norm x).

    Source: Zhai et al. 2022 (arXiv:2106.04560) §3, Zhai et al. 2023 (arXiv:2303.15343).
    """

    def __init__(self, config: MMStackConfig):
        super().__init__()
        self.config = config
        self.probe = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.attention = MMCrossAttention(config, 0, config.hidden_size)
        self.norm = build_norm(config.norm_type, config.hidden_size, config.layer_norm_eps)
        self.mlp = MMMLP(config)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(n, T, D) -> (n, D)."""
        count = hidden_states.shape[0]
        mask = None
        if attention_mask is not None:
            query = hidden_states[:, :1]
            mask = create_bidirectional_mask(self.config, query, attention_mask, encoder_hidden_states=hidden_states)
        probe = self.probe.expand(count, -1, -1)
        pooled, _ = self.attention(probe, hidden_states, MMRows(count, count), mask)
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


class MMPooler(nn.Module):
    """Pools (n, T, D) to (n, D): the first (cls) or last real token, the one before the last, the first eos, the mean
    of the real tokens, or what a learned query finds in them (attention).

    "cls_tanh" is BERT's: dense and tanh on the first token. "before_last" is VisualBERT's, the token before [SEP].
    "highest_id" is the real token with the highest id, the first of several, as old CLIPs find the end of a text.
    "none" gives None.
    """

    def __init__(self, config: MMStackConfig, eos_token_id: int | list[int] | None = None):
        super().__init__()
        self.kind = config.pooler
        self.eos_token_id = eos_token_id
        self.has_looked = False  # whether a first batch was looked at for an eos
        if self.kind == "cls_tanh":
            self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        elif self.kind == "attention":
            self.head = MMProbe(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,  # (n, T), 1 = real; None: all
        input_ids: torch.Tensor | None = None,  # (n, T), for "eos" and "highest_id"
    ) -> torch.Tensor | None:
        if self.kind == "none":
            return None
        if self.kind == "attention":
            return self.head(hidden_states, attention_mask)
        if self.kind == "cls" and attention_mask is None:
            return hidden_states[:, 0]
        if attention_mask is None:
            attention_mask = hidden_states.new_ones(hidden_states.shape[:2], dtype=torch.long)
        attention_mask = attention_mask.long()
        if self.kind == "mean":
            return masked_mean(hidden_states, attention_mask)
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        pooled = hidden_states[rows, self._at(attention_mask, input_ids)]
        return torch.tanh(self.dense(pooled)) if self.kind == "cls_tanh" else pooled

    def _at(self, attention_mask: torch.Tensor, input_ids: torch.Tensor | None) -> torch.Tensor:
        """(n,), the column that is read."""
        if self.kind in ("cls", "cls_tanh"):
            return attention_mask.argmax(1)
        if self.kind == "last":
            return attention_mask.shape[1] - 1 - attention_mask.flip(1).argmax(1)
        if self.kind == "before_last":
            number = attention_mask.cumsum(1)
            wanted = (number[:, -1:] - 1).clamp(min=1)
            return ((number == wanted) & attention_mask.bool()).long().argmax(1)
        if input_ids is None:
            raise ValueError(f"pooler={self.kind!r} finds its token by the id; pass input_ids, not inputs_embeds")
        if self.kind == "highest_id":
            return input_ids.masked_fill(attention_mask == 0, -1).argmax(1)
        eos = torch.as_tensor(self.eos_token_id, device=input_ids.device).reshape(-1)
        found = torch.isin(input_ids, eos) & attention_mask.bool()
        if not self.has_looked and not found.is_meta and may_read_values():
            self.has_looked = True
            if not bool(found.any()):
                logger.warning(
                    "No text of the first batch holds eos_token_id=%s, where pooler='eos' reads: each is read at its "
                    "first token. If the tokenizer has ids of its own, give them to the model: "
                    "MMConfig.preset(..., tokenizer=tokenizer), or text_config.eos_token_id",
                    self.eos_token_id,
                )
        return found.long().argmax(1)
