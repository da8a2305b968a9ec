"""Accuracy and macro F1 of classes."""

from collections.abc import Sequence

import numpy as np


def class_counts(predictions: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n, 3C): for each row and class whether it is a true positive, a false positive and a false negative.

    C: the classes that are predicted or right somewhere. Sums of rows are what `macro_f1` reads.
    """
    told, truth = np.asarray(predictions), np.asarray(labels)
    if told.shape != truth.shape or told.ndim != 1 or not len(told) or {told.dtype.kind, truth.dtype.kind} - {*"iub"}:
        raise ValueError(
            f"predictions {told.dtype} {told.shape}, labels {truth.dtype} {truth.shape}; give one class number each, "
            "and at least one"
        )
    classes = np.union1d(told, truth)
    is_told, is_true = told[:, None] == classes, truth[:, None] == classes
    return np.concatenate([is_told & is_true, is_told & ~is_true, ~is_told & is_true], axis=1).astype(np.float64)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """The mean F1 of the classes that occur in a sum (..., 3C) of `class_counts`, as predictions or as labels."""
    true, false, missed = np.split(sums, 3, axis=-1)
    there = true + false + missed
    scores = np.divide(2 * true, true + there, out=np.zeros_like(there), where=there > 0)
    return scores.sum(-1) / (there > 0).sum(-1)


def accuracy(sums: np.ndarray) -> np.ndarray:
    """The share of right rows in a sum (..., 3C) of `class_counts`."""
    true, _, missed = np.split(sums, 3, axis=-1)
    return true.sum(-1) / (true + missed).sum(-1)
