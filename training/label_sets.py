"""Several classes of a row: what a classifier of such rows says, scored. n rows, C classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.classes import macro_f1
from ..evaluation.intervals import grouped_interval, mean_interval
from .predictions import Question

Interval = tuple[float, float, float]  # value, low, high


def score_label_sets(
    questions: list[Question], logits: np.ndarray, labels: np.ndarray, names: Sequence[str] | None = None
) -> dict[str, Interval]:
    """micro_f1 over all pairs of row and class, macro_f1 (the mean over classes that occur), exact_match (no class
    wrong). A class is said where its logit is above 0: a probability above one half.

    Raises ValueError for labels that are not vectors of 0 and 1 over the classes of the model.
    """
    if labels.shape != logits.shape or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"labels {labels.dtype} {labels.shape} came with logits {logits.shape}: metrics are of one class, of one "
            "number, or of a vector of 0 and 1 a row; give compute_metrics of your own for others"
        )
    told, truth = logits > 0, labels == 1
    groups = [question.group for question in questions]
    for question, own, right in zip(questions, told, truth, strict=True):
        question.prediction, question.references = _words(own, names), [_words(right, names)]
        question.score = float(_f1(own & right, own & ~right, ~own & right))
    counted = np.concatenate([told & truth, told & ~truth, ~told & truth], axis=1).astype(np.float64)
    return {
        "micro_f1": grouped_interval(counted, groups, micro_f1),
        "macro_f1": grouped_interval(counted, groups, _macro_f1),
        "exact_match": mean_interval((told == truth).all(1).astype(np.float64), groups),
    }


def micro_f1(sums: np.ndarray) -> np.ndarray:
    """F1 of all classes counted together, of a sum (..., 3C) of true positives, false positives, false negatives; 1
    where no class is said and none is right."""
    true, false, missed = (part.sum(-1) for part in np.split(sums, 3, axis=-1))
    there = 2 * true + false + missed
    return np.divide(2 * true, there, out=np.ones_like(there), where=there > 0)


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    occurs = sums.sum(-1) > 0  # a resample may hold no class at all
    return np.where(occurs, macro_f1(np.where(occurs[..., None], sums, 1.0)), 1.0)


def _f1(true: Any, false: Any, missed: Any) -> np.ndarray:
    return micro_f1(np.concatenate([true, false, missed]).astype(np.float64))


def _words(chosen: np.ndarray, names: Sequence[str] | None) -> str:
    numbers = np.flatnonzero(chosen).tolist()
    return ", ".join(names[one] if names is not None and one < len(names) else str(one) for one in numbers)
