"""What the models return. Fields that are None are absent (ModelOutput).

B contexts, R rows (texts), T text tokens, S context tokens, H heads, V vocabulary, Dt text width, Dc context width,
Dv vision tower width.
"""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput


@dataclass
class MMContextOutput(ModelOutput):
    """Everything the rows may look at, encoded once per context.

    last_hidden_state: (B, S, Dc), the pictures' tokens at the width that the cross-attention reads.
    attention_mask: bool (B, S), True = real, **real tokens first**; None: all are real.
    token_sources: int64 (B, S, 3): modality (0 image), item number, position within the item; padding is -1.
    pooler_output: (B, Dv), the tower's pooled vector averaged over the pictures present; zeros where there is none.
    vision_output: the tower's own output for the pictures present; generate() drops it.
    """

    last_hidden_state: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    token_sources: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    vision_output: BaseModelOutputWithPooling | None = None


@dataclass
class MMModelOutput(ModelOutput):
    """The base model's output. Of text alone: decoder states; of media alone: the context; of both: fused states.

    last_hidden_state: (R, T, Dt), or (B, S, Dc) from media alone.
    pooler_output: (R, Dt) by the text pooler, or (B, Dv) from media alone.
    hidden_states, attentions: of the text stack; cross_attentions: per cross layer (R, H, T, S), S in packed order
    (token_sources of the context says what each key is).
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    context_hidden_states: torch.Tensor | None = None
    context_attention_mask: torch.Tensor | None = None


@dataclass
class MMCausalLMOutput(ModelOutput):
    """The generation head's output: loss when labels were given, logits (R, T or kept, V), then as MMModelOutput."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    context_hidden_states: torch.Tensor | None = None
    context_attention_mask: torch.Tensor | None = None
