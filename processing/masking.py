"""Masks tokens of a text and patches of a picture, which the model has to predict.

R rows, T tokens, n pictures, L patches. Each row and picture has its own random numbers, so its mask does not depend
on the rest of the batch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .token_rows import IGNORED_LABEL


def mask_tokens(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    tokenizer: Any,
    probability: float,
    rngs: Sequence[np.random.Generator],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hides real tokens that are not special, each with `probability` (BERT: arXiv:1810.04805, §3.1).

    Of the masked tokens 8 in 10 become the mask token, 1 a random token of the vocabulary, 1 is not changed.

    Returns: int64 (R, T) with them hidden, and (R, T), what stood there, -100 elsewhere.
    """
    special = torch.tensor(sorted(tokenizer.all_special_ids))
    masked, targets = input_ids.clone(), torch.full_like(input_ids, IGNORED_LABEL)
    open_to = attention_mask.bool() & ~torch.isin(input_ids, special)
    for row, rng in enumerate(rngs):
        places = open_to[row].nonzero()[:, 0]
        # drawn for the real tokens in their order: padding moves nothing
        hidden, kind = (torch.from_numpy(rng.random(len(places))) for _ in range(2))
        other = torch.from_numpy(rng.integers(0, len(tokenizer), len(places)))
        old = input_ids[row, places]
        new = torch.where(kind < 0.8, tokenizer.mask_token_id, torch.where(kind < 0.9, other, old))
        chosen = hidden < probability
        masked[row, places[chosen]] = new[chosen]
        targets[row, places[chosen]] = old[chosen]
    return masked, targets


def mask_patches(pixel_values: torch.Tensor, patch_size: int, ratio: float, rngs: Sequence[np.random.Generator]):
    """bool (B, L) or (B, N, L), True for round(ratio * L) patches of each picture (SimMIM: arXiv:2111.09886).

    pixel_values: (B, C, height, width) or (B, N, C, height, width); rngs: one per context.
    """
    height, width = pixel_values.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(f"pictures of {height}x{width} have no whole patches of {patch_size}; set patch_size")
    patches = (height // patch_size) * (width // patch_size)
    hidden = torch.zeros(*pixel_values.shape[:-3], patches, dtype=torch.bool)
    for context, rng in zip(hidden.view(len(pixel_values), -1, patches), rngs, strict=True):
        for picture in context:
            picture[torch.from_numpy(rng.permutation(patches)[: round(ratio * patches)])] = True
    return hidden
