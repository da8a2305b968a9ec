"""One vector per sequence: MMPooler, and MMUnimodal, CoCa's token after a text.

n sequences, R rows (texts), T tokens, D hidden_size.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import logging

from ...configuration.base import MMStackConfig
from ...configuration.text import MMTextConfig
from .attention import MMCrossAttention, build_norm
from .context_rows import MMRows
from .input_checks import may_read_values
from .layers import MMMLP

logger = logging.get_logger(__name__)


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


# ---- CoCa: a token after the text -----------------------------------------------------------------------------------


class Closed(NamedTuple):
    """A text and one padding token after it."""

    input_ids: torch.Tensor  # (R, T + 1)
    position_ids: torch.Tensor  # (R, T + 1)
    attention_mask: torch.Tensor  # (R, T + 2), of the keys, the cls token's last


class MMUnimodal(nn.Module):
    """The token after a text in the first layers of a decoder (CoCa), its place included, and the norm of its state,
    which becomes the text's vector.

        columns          text ... text | padding | cls          every column sees what is before it, and
        "text"           itself        | -       | itself
        "shifted"        itself        | itself  | not itself   of a text of max_position_embeddings: as "text"

    "shifted" is the mask of open_clip's published CoCa (Yu et al. 2022, arXiv:2205.01917): its columns are one too far
    to the right, so the cls token attends to one padding token after the text and not to itself. The weights were
    trained so. open_clip always pads texts to max_position_embeddings; here nothing depends on the amount of padding.
    """

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
