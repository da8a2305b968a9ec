"""Masks tokens of a text, patches of a picture and codes of a drawn one, which the model has to predict.

R rows, T tokens, n pictures, L patches. Each row and picture has its own random numbers, so its mask does not depend
on the rest of the batch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .sample_seeds import Draws
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


def mask_codes(
    input_ids: torch.Tensor, labels: torch.Tensor, drawing: Mapping[str, Any], rngs: Sequence[np.random.Generator]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hides codes of the pictures to learn, in each row a share cos(pi/2 * u) of them, u drawn evenly from 0..1, and
    one at least (MaskGIT: arXiv:2202.04200, §3.1).

    Returns: int64 (R, T) with them hidden, and (R, T), what stood there, -100 elsewhere.
    Raises: ValueError for a row that learns words: they would be labels of their own places.
    """
    first, mask_id = drawing["first_id"], drawing["mask_id"]
    if mask_id is None:
        raise ValueError("masked_targets=True hides codes behind drawing's mask_id, which the processor does not have")
    is_code = (labels >= first) & (labels < first + drawing["codebook_size"])
    if bool((~is_code & (labels != IGNORED_LABEL) & (labels != drawing["end_id"])).any()):
        raise ValueError("masked_targets=True is for rows with a target_image; a row here learns words")
    masked, targets = input_ids.clone(), torch.full_like(labels, IGNORED_LABEL)
    for row, rng in enumerate(rngs):
        places = is_code[row].nonzero()[:, 0]
        count = max(1, math.ceil(math.cos(math.pi / 2 * rng.random()) * len(places)))
        hidden = places[torch.from_numpy(rng.permutation(len(places))[:count])]
        targets[row, hidden] = labels[row, hidden]
        masked[row, hidden] = mask_id
    return masked, targets


def hide(collator: Any, batch: dict[str, Any], rows: list[str], contexts: list[str], draws: Draws) -> dict[str, Any]:
    """A batch of MMDataCollator with what its masked losses need; rows and contexts by names that their random numbers
    go by."""
    if collator.mlm_probability and "input_ids" in batch:
        ids, mask, tokenizer = batch["input_ids"], batch["attention_mask"], collator.processor.tokenizer
        masked, targets = mask_tokens(ids, mask, tokenizer, collator.mlm_probability, draws.rngs(rows, "tokens"))
        if collator.masked_lm and "labels" in batch:
            raise ValueError("masked_lm=True makes labels, and so do suffix and label: drop one")
        names = ("input_ids", "labels") if collator.masked_lm else ("masked_input_ids", "mlm_targets")
        batch |= dict(zip(names, (masked, targets), strict=True))
    if collator.masked_targets:
        if "labels" not in batch:
            raise ValueError("masked_targets=True hides codes of pictures, but no sample has a target_image")
        given = batch["input_ids"], batch["labels"], collator.processor.drawing
        batch["input_ids"], batch["labels"] = mask_codes(*given, draws.rngs(rows, "codes"))
    if collator.mim_ratio and "pixel_values" in batch:
        held = contexts[: len(batch["pixel_values"])]  # a blank stands for all
        rngs = draws.rngs(held, "patches")
        hidden = mask_patches(batch["pixel_values"], collator.patch_size or 1, collator.mim_ratio, rngs)
        present = batch.get("pixel_attention_mask")
        batch["bool_masked_pos"] = hidden if present is None else hidden & present[..., None]
    return batch
