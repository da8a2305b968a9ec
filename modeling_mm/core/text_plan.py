"""What self-attention of one call of a text needs, and which number each of its tokens has.

R rows (texts), T text tokens.
"""

from typing import Any, NamedTuple

import torch

from .cache import MMCache
from .positions import MMSegments


class MMTextPlan(NamedTuple):
    """What self-attention of one call needs.

    call: the implementation, and whether a token sees only those before it. position_ids: (R or 1, T); rotary: their
    cosines and sines. cache: what is held of `past` earlier tokens; returned: the same, where the caller gets it back.
    mask: of the implementation's kind. segments: those of a long text. local: mask and rotary of local layers.
    """

    call: Any  # a CallConfig, which Transformers' mask functions take for a config
    position_ids: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor] | None
    cache: MMCache | None
    returned: MMCache | None
    past: int
    mask: Any
    segments: MMSegments | None
    local: Any = None


def default_positions(attention_mask, past, length: int, device: torch.device) -> torch.Tensor:
    """(R or 1, T): a token's number among the real tokens of its row, so padding on either side moves nothing."""
    if attention_mask is None or attention_mask.ndim != 2:
        return torch.arange(length, device=device)[None] + past
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]


def prompt_blocks(embeds: torch.Tensor, token_type_ids: torch.Tensor | None, past: Any) -> torch.Tensor | None:
    """int64 (R, T): 0 in the prompt, whose tokens see each other both ways, -1 after it; None: all come after it.
    Without token_type_ids a call without earlier tokens is all prompt."""
    if past:
        return None
    if token_type_ids is None:
        return torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    return torch.where(token_type_ids == 0, 0, -1)
