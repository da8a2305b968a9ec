"""Metrics of classifiers: of one class a row, of several, and of numbers; every question gets its own score.

labels                what training computes              mm evaluate adds
a class               accuracy, macro_f1                  balanced_accuracy, precision, recall and F1 by each
                                                          average, auc, ece, brier; where classes are in an order
                                                          mean_absolute_error and quadratic_kappa
0 or 1 of each class  micro_f1, macro_f1, exact_match     precision, recall and F1 by each average, auc
a number              mean_absolute_error                 -
"""

from collections.abc import Sequence

import numpy as np

from ..evaluation.classes import (
    class_scores,
    label_scores,
    macro_auc_score,
    ordinal_scores,
    probability_scores,
)
from ..evaluation.intervals import mean_interval
from ..evaluation.scores import Score
from .label_sets import Interval, score_label_sets
from .predictions import Question


def score_classes(
    questions: list[Question],
    logits: np.ndarray,
    names: Sequence[str] | None = None,
    every: bool = False,
    ordered: bool = False,
) -> dict[str, Interval]:
    """The metrics with their intervals, and the prediction, score and confidence of each question.

    every: also those that training does not compute each time. ordered: whether classes are in an order.
    """
    labels, groups = np.stack([question.label for question in questions]), [question.group for question in questions]
    if labels.dtype.kind in "iub":
        told = _class_of_each(questions, logits, labels, names)
        scores = class_scores(told, labels)
        if every:
            scores |= _of_probabilities(logits, labels) | (ordinal_scores(told, labels) if ordered else {})
        names_wanted = list(scores) if every else ["accuracy", "macro_f1"]
        return {name: scores[name].interval(groups) for name in names_wanted}
    if labels.ndim > 1 or logits.size != labels.size:
        found = score_label_sets(questions, logits, labels, names)
        if every:
            scores = label_scores((logits > 0).astype(int), labels.astype(int)) | {
                "auc": macro_auc_score(logits, labels)
            }
            found = {name: score.interval(groups) for name, score in scores.items()} | found
        return found
    told = logits.reshape(labels.shape)
    errors = np.abs(told - labels)
    for question, value, truth, error in zip(questions, told, labels, errors, strict=True):
        question.prediction, question.references = f"{value:.4g}", [f"{truth:.4g}"]
        question.score = 1 / (1 + float(error))
    return {"mean_absolute_error": mean_interval(errors, groups)}


def _class_of_each(
    questions: list[Question], logits: np.ndarray, labels: np.ndarray, names: Sequence[str] | None
) -> np.ndarray:
    told, sure = logits.argmax(-1), softmax(logits).max(-1)
    for question, guess, truth, confidence in zip(
        questions, told.tolist(), labels.tolist(), sure.tolist(), strict=True
    ):
        question.prediction, question.references = _name(guess, names), [_name(truth, names)]
        question.score, question.confidence = float(guess == truth), confidence
    return told


def _of_probabilities(logits: np.ndarray, labels: np.ndarray) -> dict[str, Score]:
    probabilities = softmax(logits)
    found = probability_scores(probabilities, labels)
    return {"auc": macro_auc_score(probabilities, labels), "ece": found["ece"], "brier": found["brier"]}


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, C) probabilities of the classes, float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _name(number: int, names: Sequence[str] | None) -> str:
    return names[number] if names is not None and number < len(names) else str(number)
