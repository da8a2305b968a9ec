"""Layers that see only the tokens near their own: of a bidirectional text (ModernBERT, Warner et al. 2024,
arXiv:2412.13663), or of what comes before in a causal one (Gemma 2, Riviere et al. 2024, arXiv:2408.00118).

R rows, T text tokens, K keys, S prefix tokens, D hidden_size, Dr turned dimensions of a head.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad
from transformers.masking_utils import create_bidirectional_sliding_window_mask

from ...configuration.text import MMTextConfig
from .cache import MMCache
from .plain_attention import MMPrefixMask
from .positions import MMRotaryEmbedding

Rotary = tuple[torch.Tensor, torch.Tensor]


class MMLocalAttention(nn.Module):
    """What the layers of local_attention_layers get instead of the other layers' mask and angles.

    How far tokens are apart is counted over the real tokens of a row, so padding changes nothing. Media before a text
    are near to all of its tokens.
    """

    def __init__(self, config: MMTextConfig):
        super().__init__()
        self.window: Any = config.local_attention_window
        self.is_causal = config.is_causal
        has_own = config.local_rope_theta is not None
        self.rotary = MMRotaryEmbedding(config.local_stack()) if has_own else None

    def turns(self, position_ids: torch.Tensor, rotary: Rotary | None, dtype: torch.dtype) -> Rotary | None:
        """Cosines and sines of these layers; `rotary` are the others'."""
        return rotary if self.rotary is None else self.rotary(position_ids, dtype)

    def of_whole_text(self, call: Any, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None) -> Any:
        """The mask of a bidirectional text (R, T, D), of the kind of the call's implementation.

        Raises: ValueError for a causal call, and for a ready mask, which says nothing of a window.
        """
        if call.is_causal:
            raise ValueError("is_causal=True was given, but local_attention_layers see tokens on both sides")
        self._check(attention_mask)
        windowed = copy.copy(call)
        windowed.sliding_window = self.window
        return create_bidirectional_sliding_window_mask(windowed, inputs_embeds, attention_mask)

    def narrowed(
        self,
        mask: Any,
        attention_mask: torch.Tensor | None,
        states: torch.Tensor,
        cache: MMCache | None = None,
        blocks: torch.Tensor | None = None,
    ) -> Any:
        """The other layers' mask, of which only the window is left.

        Args:
            mask: a plain one, bool or float (R or 1, 1, T, K), or an MMPrefixMask; None: T = 1, which sees all.
            attention_mask: of the whole text, (R, n), 1 = real; None: all real.
            states: (R, T, D), of the new tokens. cache: with those before them.
            blocks: int64 (R, T), of tokens that see each other at any distance the same number; -1: of none.
        Raises: ValueError for a ready mask, which says nothing of a window.
        """
        own, length = mask.own if isinstance(mask, MMPrefixMask) else mask, states.shape[1]
        past, columns = (0, 0) if cache is None else (cache.get_seq_length(), cache.columns)
        keys = length if cache is None else columns + cache.get_mask_sizes(length, 0)[0]
        if keys <= self.window + 1:
            return mask
        self._check(attention_mask)
        if attention_mask is None:
            numbers = torch.arange(keys, device=states.device)[None]
        else:
            numbers = pad(attention_mask, (0, max(keys - attention_mask.shape[1], 0))).long().cumsum(-1) - 1
        queries = numbers[:, torch.arange(length, device=numbers.device) + past]
        near = self.near(queries, numbers[:, columns:])
        if blocks is not None:
            of_keys = pad(blocks, (0, keys - length), value=-1)[:, None, None, :]
            near = near | ((blocks[:, None, :, None] == of_keys) & (of_keys >= 0))
        if not isinstance(mask, MMPrefixMask):
            return _both(own, near)
        before = mask.before
        if columns and cache is not None:
            places = torch.arange(cache.prefix_length, device=numbers.device)[None]
            before = _both(before, self.near(queries, places))
        return mask._replace(own=_both(own, near), before=before)

    def of_merged(
        self, mask: Any, attention_mask: torch.Tensor | None, text: torch.Tensor, around: tuple[int, int]
    ) -> torch.Tensor:
        """`narrowed` of a text (R, T, D) with media in one sequence, `around` of them before and after it."""
        length = text.shape[1]
        if length <= self.window + 1:
            return mask
        self._check(attention_mask)
        if attention_mask is None:
            numbers = torch.arange(length, device=text.device)[None]
        else:
            numbers = attention_mask.long().cumsum(-1) - 1
        return _both(mask, pad(self.near(numbers, numbers), around * 2, value=True))

    def near(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Numbers (R or 1, T) and (R or 1, K) -> bool (R or 1, 1, T, K): on which side of it is the mask's to say."""
        return (queries[:, None, :, None] - keys[:, None, None, :]).abs() <= self.window

    def _check(self, attention_mask: torch.Tensor | None) -> None:
        if attention_mask is None or attention_mask.ndim == 2:
            return
        side = "before it" if self.is_causal else "on either side"
        raise ValueError(
            f"attention_mask is a ready mask {tuple(attention_mask.shape)}, but local_attention_layers see "
            f"{self.window} tokens {side}; pass the mask as (R, T)"
        )


def _both(mask: torch.Tensor | None, near: torch.Tensor) -> torch.Tensor:
    """What both let through; a float mask stays one, its minimum where closed."""
    if mask is None:
        return near
    if mask.dtype == torch.bool:
        return mask & near
    return mask.masked_fill(~near.to(mask.device), torch.finfo(mask.dtype).min)
