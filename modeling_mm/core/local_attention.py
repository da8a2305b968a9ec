"""Layers of a bidirectional text that see only the tokens near their own (ModernBERT, Warner et al. 2024,
arXiv:2412.13663).

R rows, T text tokens, D hidden_size, Dr turned dimensions of a head.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_sliding_window_mask

from ...configuration.text import MMTextConfig
from .positions import MMRotaryEmbedding

Rotary = tuple[torch.Tensor, torch.Tensor]


class MMLocalAttention(nn.Module):
    """What the layers of local_attention_layers get instead of the other layers' mask and angles."""

    def __init__(self, config: MMTextConfig):
        super().__init__()
        self.window = config.local_attention_window
        has_own = config.local_rope_theta is not None
        self.rotary = MMRotaryEmbedding(config.local_stack()) if has_own else None

    def forward(
        self,
        call: Any,  # the CallConfig of this call
        inputs_embeds: torch.Tensor,  # (R, T, D)
        attention_mask: torch.Tensor | None,  # (R, T), 1 = real; None: all
        position_ids: torch.Tensor,  # (R or 1, T)
        rotary: Rotary | None,  # the other layers': cosines and sines (R or 1, 1, T, Dr)
    ) -> tuple[Any, Rotary | None]:
        """The mask, of the kind of the call's implementation, and cosines and sines.

        Raises: ValueError for a causal call, and for a ready mask, which says nothing of a window.
        """
        if call.is_causal:
            raise ValueError("is_causal=True was given, but local_attention_layers see tokens on both sides")
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(
                f"attention_mask is a ready mask {tuple(attention_mask.shape)}, but local_attention_layers see "
                f"{self.window} tokens on either side; pass the mask as (R, T)"
            )
        windowed = copy.copy(call)
        windowed.sliding_window = self.window
        mask = create_bidirectional_sliding_window_mask(windowed, inputs_embeds, attention_mask)
        if self.rotary is not None:
            rotary = self.rotary(position_ids, inputs_embeds.dtype)
        return mask, rotary
