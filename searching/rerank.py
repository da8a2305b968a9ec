"""Hits of a search, or drawn pictures, in the order of how well they fit a text."""

import math
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
    """Hits of `MMIndex.search` with "match", the probability that text and file belong together, the greatest first.

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
    order = sorted(range(len(hits)), key=lambda number: -odds[number])  # 1.0000 of two hits may be of other odds
    return [{**hits[number], "match": probability(odds[number])} for number in order]


def probability(odds: float) -> float:
    """Of log-odds."""
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


@torch.no_grad()
def rank_pictures(
    model: Any, processor: Any, text: str, pictures: Sequence[Any], batch_size: int = 64
) -> list[tuple[int, float]]:
    """(number, score) of each picture, the one that fits the text best first.

    The score is the probability of a match, by the matching head, or without one the cosine of the embeddings.

    Args:
        model: an MMForImageTextRetrieval. processor: its own.
    """
    if model.itm_head is None:
        of_text = model.encode([{"text": text}], processor=processor)
        of_pictures = model.encode([{"image": one} for one in pictures], processor=processor, batch_size=batch_size)
        scores = (of_pictures @ of_text[0]).tolist()
    else:
        scores = []
        for start in range(0, len(pictures), batch_size):
            batch = [[one] for one in pictures[start : start + batch_size]]
            read = processor(text=[text] * len(batch), images=batch, return_tensors="pt").to(model.device)
            read = {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in read.items()}
            with evaluating(model):
                logits = model.match(**read).float()
            scores += (logits[:, 1] - logits[:, 0]).tolist()
    ranked = sorted(enumerate(scores), key=lambda pair: -pair[1])
    return ranked if model.itm_head is None else [(number, probability(score)) for number, score in ranked]
