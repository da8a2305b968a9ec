"""Early fusion: media tokens and text tokens as one sequence, and who sees whom in it."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask


def merge(media: torch.Tensor, text: torch.Tensor, order: str) -> torch.Tensor:
    """(R, S, ...) and (R, T, ...) -> (R, S + T, ...), media or text first."""
    return torch.cat([media, text] if order == "media_first" else [text, media], dim=1)


def split(merged: torch.Tensor, num_media: int, order: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `merge`: (media, text)."""
    if order == "media_first":
        return merged[:, :num_media], merged[:, num_media:]
    return merged[:, merged.shape[1] - num_media :], merged[:, : merged.shape[1] - num_media]


@dataclass
class MMPrefix:
    """Media tokens that join the text's own sequence.

    states: (R, S, D), the context of each row; mask: bool (R, S), True = real; None: all.
    mask_kind, order, embedding_norm: fusion_mask, fusion_order and fusion_embedding_norm of the config.
    """

    states: torch.Tensor
    mask: torch.Tensor | None = None
    mask_kind: str = "prefix"
    order: str = "media_first"
    embedding_norm: bool = False

    @property
    def length(self) -> int:
        return self.states.shape[1]

    def real(self) -> torch.Tensor:
        """bool (R, S)."""
        return self.states.new_ones(self.states.shape[:2], dtype=torch.bool) if self.mask is None else self.mask.bool()


def merged_mask(
    config: Any,  # the CallConfig of this call
    states: torch.Tensor,  # (R, S + T, D), the queries
    prefix: MMPrefix,
    text_mask: torch.Tensor | None,  # (R, T), 1 = real; None: all
):
    """Who sees whom in the merged sequence, of the attention implementation's kind.

                    media see          text sees
    prefix          all media          all media, earlier text     (GIT; media first)
    causal          earlier media      all media, earlier text     (media first)
    bidirectional   everything         everything                  (VisualBERT; in either order)
    """
    real = None
    if prefix.mask is not None or text_mask is not None:
        if text_mask is None:
            text_mask = states.new_ones(states.shape[0], states.shape[1] - prefix.length)
        real = merge(prefix.real(), text_mask.bool(), prefix.order)
    if prefix.mask_kind == "bidirectional":
        return create_bidirectional_mask(config=config, inputs_embeds=states, attention_mask=real)
    block = None
    if prefix.mask_kind == "prefix":  # the media are one block that sees itself both ways
        columns = torch.arange(states.shape[1], device=states.device)
        block = torch.where(columns < prefix.length, 0, -1).expand(states.shape[0], -1)
    return create_causal_mask(
        config=config, inputs_embeds=states, attention_mask=real, past_key_values=None, block_sequence_ids=block
    )
