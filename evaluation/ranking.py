"""Recall at k of retrieval both ways, with several captions to a picture. B pictures, R texts."""

import math
from collections.abc import Sequence

import numpy as np


def recalls(
    similarity: np.ndarray, picture_of_text: Sequence[int], ks: Sequence[int] = (1, 5, 10)
) -> dict[str, np.ndarray]:
    """{"i2t_r1": (B,), ..., "t2i_r1": (R,), ...}: whether the right one is among the k most similar, 0..1 for each.

    i2t: a picture's text is found if any of its captions is; pictures without a caption are only candidates (nan).
    t2i: a text's own picture. Ties count by chance, as the mean over all orders of what is tied: a model that gives
    every pair the same similarity has the recall of guessing.

    Args:
        similarity: (B, R), finite.
        picture_of_text: R numbers of pictures.
    """
    scores, owner = np.asarray(similarity, np.float64), np.asarray(picture_of_text)
    if scores.ndim != 2 or not scores.size or owner.shape != scores.shape[1:] or not np.isfinite(scores).all():
        raise ValueError(
            f"similarity has shape {scores.shape} for {owner.shape} texts; give finite numbers (pictures, texts), at "
            "least one of each, and the number of its picture for each text"
        )
    if owner.dtype.kind not in "iu" or owner.min() < 0 or owner.max() >= len(scores):
        raise ValueError(
            f"picture_of_text holds numbers from 0 to {len(scores) - 1}; got {owner.min()}..{owner.max()}"
        )
    if not ks or min(ks) < 1:
        raise ValueError(f"ks={tuple(ks)}; accepted are whole numbers from 1")
    right = owner[None] == np.arange(len(scores))[:, None]
    found = {f"i2t_r{k}": _hits(scores, right, k) for k in ks}
    return found | {f"t2i_r{k}": _hits(scores.T, right.T, k) for k in ks}


def _hits(scores: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """For each row the chance that one of its right columns is among the k with the highest scores."""
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    above = (scores > best).sum(1)
    tied = scores == best
    wrong, all_tied = (tied & ~right).sum(1), tied.sum(1)
    rows = zip(above, wrong, all_tied, right.sum(1) > 0, strict=True)
    return np.array([_chance(k - over, bad, every) if has else np.nan for over, bad, every, has in rows])


def _chance(drawn: int, wrong: int, tied: int) -> float:
    """That `drawn` of `tied` candidates hold one that is right, `wrong` of them being wrong."""
    drawn = int(min(max(drawn, 0), tied))
    return 1.0 - math.comb(int(wrong), drawn) / math.comb(int(tied), drawn)
