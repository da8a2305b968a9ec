"""Hits of a search in the order of matching: the text and each file are read together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling_mm.core.modes import evaluating
from ..processing.media_kinds import ARGUMENT_OF


@torch.no_grad()
def rerank(
    model: Any, processor: Any, text: str, hits: Sequence[dict[str, Any]], batch_size: int = 16
) -> list[dict[str, Any]]:
    """Hits of `MMIndex.search` with "match", the log-odds that text and file belong together, the greatest first.

    The files are read again from their paths.

    Raises: ValueError for a model without a matching head; MediaDecodeError for a file that is gone or broken.
    """
    if model.itm_head is None:
        raise ValueError("this model has no matching head: its pretraining_losses do not name 'itm'; leave out rerank")
    odds: dict[int, float] = {}
    for kind in dict.fromkeys(hit["kind"] for hit in hits):
        same = [number for number, hit in enumerate(hits) if hit["kind"] == kind]
        for start in range(0, len(same), batch_size):
            batch = same[start : start + batch_size]
            media = {ARGUMENT_OF[kind]: [[Path(hits[number]["path"])] for number in batch]}
            read = processor(text=[text] * len(batch), **media, return_tensors="pt").to(model.device)
            read = {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in read.items()}
            with evaluating(model):
                logits = model.match(**read).float()
            odds |= dict(zip(batch, (logits[:, 1] - logits[:, 0]).tolist(), strict=True))
    found = [{**hit, "match": odds[number]} for number, hit in enumerate(hits)]
    return sorted(found, key=lambda hit: -hit["match"])
