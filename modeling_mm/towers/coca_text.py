"""MMUnimodal: the token after a text in the first layers of a decoder; its state becomes the text's vector (CoCa).

R rows, T text tokens, n of them real, D hidden_size.

    columns          text ... text | padding | cls          every column sees what is before it, and
    "text"           itself        | -       | itself
    "shifted"        itself        | itself  | not itself   of a text of max_position_embeddings: as "text"

"shifted" is the mask of open_clip's published CoCa (Yu et al. 2022, arXiv:2205.01917): its columns are one too far to
the right, so the cls token attends to one padding token after the text and not to itself. The weights were trained so.
open_clip always pads texts to max_position_embeddings; here nothing depends on the amount of padding.
"""

# The config checks that a padding token exists if the mask is "shifted".

from typing import NamedTuple

import torch
from torch import nn

from ...configuration.text import MMTextConfig
from ..core.attention import build_norm


class Closed(NamedTuple):
    """A text and one padding token after it."""

    input_ids: torch.Tensor  # (R, T + 1)
    position_ids: torch.Tensor  # (R, T + 1)
    attention_mask: torch.Tensor  # (R, T + 2), of the keys, the cls token's last


class MMUnimodal(nn.Module):
    """The learned token, its place in the text included, and the norm of what it becomes."""

    def __init__(self, config: MMTextConfig):
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.norm = build_norm(config.norm_type, config.hidden_size, config.layer_norm_eps)

    def close(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor
    ) -> Closed:
        """Ids (R, T), their mask (R, T), and positions (R or 1, T)."""
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        length, longest = real.sum(1, keepdim=True), self.config.max_position_embeddings
        is_shifted = torch.zeros_like(length)
        if self.config.unimodal_cls == "shifted":
            is_shifted = (length < longest).long()
        padding = torch.full_like(length, self.config.pad_token_id or 0)
        return Closed(
            torch.cat([input_ids, padding], dim=1),
            torch.cat([position_ids.expand(len(real), -1), length.clamp(max=longest - 1)], dim=1),
            torch.cat([real, is_shifted, 1 - is_shifted], dim=1),
        )

    def append(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(R, T, D) -> (R, T + 1, D)."""
        return torch.cat([hidden_states, self.cls_token.expand(len(hidden_states), -1, -1)], dim=1)
