"""MMPooler: one vector per sequence, read by mask."""

import torch
from torch import nn

from ..configuration.stack import MMStackConfig


class MMPooler(nn.Module):
    """Pools (n, T, D) to (n, D): the first (cls) or last real token, the first eos, or the mean of the real tokens.

    "cls_tanh" is BERT's: dense and tanh on the first token. "none" gives None.
    """

    def __init__(self, config: MMStackConfig, eos_token_id: int | list[int] | None = None):
        super().__init__()
        self.kind = config.pooler
        self.eos_token_id = eos_token_id
        if self.kind == "cls_tanh":
            self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,  # (n, T), 1 = real; None: all
        input_ids: torch.Tensor | None = None,  # (n, T), for "eos"
    ) -> torch.Tensor | None:
        if self.kind == "none":
            return None
        if attention_mask is None:
            attention_mask = hidden_states.new_ones(hidden_states.shape[:2], dtype=torch.long)
        attention_mask = attention_mask.long()
        if self.kind == "mean":
            weights = attention_mask[..., None].to(hidden_states.dtype)
            return (hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1)
        rows = torch.arange(len(hidden_states), device=hidden_states.device)
        pooled = hidden_states[rows, self._at(attention_mask, input_ids)]
        return torch.tanh(self.dense(pooled)) if self.kind == "cls_tanh" else pooled

    def _at(self, attention_mask: torch.Tensor, input_ids: torch.Tensor | None) -> torch.Tensor:
        """(n,), the column that is read."""
        if self.kind in ("cls", "cls_tanh"):
            return attention_mask.argmax(1)
        if self.kind == "last":
            return attention_mask.shape[1] - 1 - attention_mask.flip(1).argmax(1)
        if input_ids is None:
            raise ValueError("pooler='eos' finds the eos token by its id; pass input_ids, not inputs_embeds")
        eos = torch.as_tensor(self.eos_token_id, device=input_ids.device).reshape(-1)
        return (torch.isin(input_ids, eos) & attention_mask.bool()).long().argmax(1)
