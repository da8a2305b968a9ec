"""Metrics of classes: one class, several, ordered ones, and the probabilities that a model gives them.

N rows, C classes. Counts are sums over rows, so that intervals and paired tests need no second count.

    P_c = TP_c / (TP_c + FP_c)     R_c = TP_c / (TP_c + FN_c)     F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c)
    macro: the mean over classes   micro: of the summed counts    weighted: the mean by how many rows a class has
    balanced accuracy: the mean R_c of the classes that have rows (Brodersen et al. 2010)

A class that neither occurs nor is predicted counts nowhere. P and R of a class without the rows to count them are 0,
as in scikit-learn with zero_division=0.
"""

from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np

from .scores import Score, mean_score

AVERAGES = ("macro", "micro", "weighted")
MOST_ORDERED = 100  # each row has a table of C x C
Classes = Sequence[int] | np.ndarray


def class_counts(predictions: Classes, labels: Classes) -> np.ndarray:
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
    return _counts(told[:, None] == classes, truth[:, None] == classes)


def label_counts(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n, 3C), as `class_counts`, of rows that have several classes or none: both are 0 and 1 (n, C)."""
    told, truth = np.asarray(predictions), np.asarray(labels)
    if told.shape != truth.shape or told.ndim != 2 or not told.size or not (_is_binary(told) and _is_binary(truth)):
        raise ValueError(
            f"predictions {told.dtype} {told.shape}, labels {truth.dtype} {truth.shape}; give 0 or 1 for each row and "
            "class, and at least one"
        )
    return _counts(told.astype(bool), truth.astype(bool))


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _counts(is_told: np.ndarray, is_true: np.ndarray) -> np.ndarray:
    return np.concatenate([is_told & is_true, is_told & ~is_true, ~is_told & is_true], axis=1).astype(np.float64)


def _parts(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    true, false, missed = np.split(sums, 3, axis=-1)
    return true, false, missed


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def accuracy(sums: np.ndarray) -> np.ndarray:
    """The share of right rows in a sum (..., 3C) of `class_counts`."""
    true, _, missed = _parts(sums)
    return true.sum(-1) / (true + missed).sum(-1)


def balanced_accuracy(sums: np.ndarray) -> np.ndarray:
    """The mean recall of the classes that occur in a sum (..., 3C), as labels."""
    true, _, missed = _parts(sums)
    rows = true + missed
    return _share(true, rows).sum(-1) / np.maximum((rows > 0).sum(-1), 1)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """The mean F1 of the classes that occur in a sum (..., 3C) of `class_counts`, as predictions or as labels."""
    return averaged("f1", "macro")(sums)


def averaged(name: str, average: str) -> Callable[[np.ndarray], np.ndarray]:
    """ "precision", "recall" or "f1" by "macro", "micro" or "weighted", of sums (..., 3C)."""
    if name not in ("precision", "recall", "f1"):
        raise ValueError(f"name={name!r}; accepted are precision, recall and f1")
    if average not in AVERAGES:
        raise ValueError(f"average={average!r}; accepted are {', '.join(AVERAGES)}")

    def of(sums: np.ndarray) -> np.ndarray:
        true, false, missed = _parts(sums)
        if average == "micro":
            true, false, missed = (part.sum(-1, keepdims=True) for part in (true, false, missed))
        part = {"precision": true, "recall": true, "f1": 2 * true}[name]
        whole = {"precision": true + false, "recall": true + missed, "f1": 2 * true + false + missed}[name]
        values = _share(part, whole)
        if average == "weighted":
            rows = true + missed
            return (values * rows).sum(-1) / np.maximum(rows.sum(-1), 1e-300)
        there = true + false + missed > 0
        return values.sum(-1) / np.maximum(there.sum(-1), 1)

    return of


def class_scores(predictions: Classes, labels: Classes) -> dict[str, Score]:
    """Every metric of one class a row: accuracy, balanced_accuracy, precision, recall and F1 by each average."""
    counts = class_counts(predictions, labels)
    classes = counts.shape[1] // 3
    right = counts[:, :classes].sum(1)
    found = {
        "accuracy": _score("accuracy", right, counts, accuracy),
        "balanced_accuracy": _score("balanced_accuracy", right, counts, balanced_accuracy),
    }
    return found | _averages(right, counts)


def label_scores(predictions: np.ndarray, labels: np.ndarray) -> dict[str, Score]:
    """The same of rows with several classes, and exact_match: the share of rows whose classes are all right."""
    counts = label_counts(predictions, labels)
    right = (np.asarray(predictions) == np.asarray(labels)).all(1).astype(np.float64)
    return {"exact_match": mean_score("exact_match", right)} | _averages(right, counts)


def _averages(right: np.ndarray, counts: np.ndarray) -> dict[str, Score]:
    names = [(name, average) for name in ("precision", "recall", "f1") for average in AVERAGES]
    return {
        f"{average}_{name}": _score(f"{average}_{name}", right, counts, averaged(name, average))
        for name, average in names
    }


def _score(name: str, per_item: np.ndarray, counts: np.ndarray, of: Callable) -> Score:
    return Score(name, float(of(counts.sum(0))), per_item, counts, of)


# ---- ordered classes ------------------------------------------------------------------------------------------------


def ordinal_scores(predictions: Classes, labels: Classes, classes: int | None = None) -> dict[str, Score]:
    """Of classes 0, 1, ..., that are in an order: mean_absolute_error in steps, and quadratic_kappa, Cohen's kappa
    with weights (i - j)^2 / (C - 1)^2 (Cohen 1968): 1 for equal ones, 0 for chance with the same shares of classes,
    nan where both know one class.

    Args:
        classes: C; None: up to the highest that occurs.
    """
    class_counts(predictions, labels)  # checks
    told, truth = np.asarray(predictions).astype(int), np.asarray(labels).astype(int)
    least, most = int(min(told.min(), truth.min())), int(max(told.max(), truth.max()))
    count = most + 1 if classes is None else classes
    if not isinstance(count, Integral) or not 1 <= count <= MOST_ORDERED:
        raise ValueError(f"{count!r} ordered classes; accepted are whole numbers from 1 to {MOST_ORDERED}")
    if least < 0 or most >= count:
        raise ValueError(f"ordered classes are 0..{count - 1}; got {least} to {most}")
    pairs = np.zeros((len(told), count * count))
    pairs[np.arange(len(told)), truth * count + told] = 1
    weights = (np.arange(count)[:, None] - np.arange(count)) ** 2.0

    def kappa(sums: np.ndarray) -> np.ndarray:
        table = sums.reshape(*sums.shape[:-1], count, count)
        total = table.sum((-2, -1))
        expected = table.sum(-1)[..., :, None] * table.sum(-2)[..., None, :] / np.maximum(total, 1)[..., None, None]
        by_chance = (weights * expected).sum((-2, -1))
        seen = (weights * table).sum((-2, -1))
        return np.where(by_chance > 0, 1 - seen / np.where(by_chance > 0, by_chance, 1), np.nan)

    errors = np.abs(told - truth).astype(np.float64)
    return {
        "mean_absolute_error": mean_score("mean_absolute_error", errors, best=0.0, higher_is_better=False),
        "quadratic_kappa": Score("quadratic_kappa", float(kappa(pairs.sum(0))), -errors, pairs, kappa),
    }


# ---- probabilities --------------------------------------------------------------------------------------------------


def probability_scores(probabilities: np.ndarray, labels: Classes, bins: int = 15) -> dict[str, Score]:
    """How right probabilities (N, C) are: ece, brier and negative log-likelihood, all better the smaller.

    ece: the gap between the confidence of the chosen class and its accuracy, weighted over `bins` even bins (a, b] of
        confidence (Guo et al. 2017, arXiv:1706.04599). That of the chosen class for two classes too; torchmetrics
        1.9.0 counts another gap for "binary".
    brier: the mean squared distance to the right class, 0 to 2 (Brier 1950). Of two classes twice scikit-learn's
        brier_score_loss.
    """
    told = np.asarray(probabilities, np.float64)
    truth = _numbers_of(told, labels)
    if not np.isfinite(told).all() or told.min() < 0 or np.abs(told.sum(1) - 1).max() > 1e-3:
        raise ValueError("probabilities must be 0 to 1 and add up to 1 in each row; logits need a softmax first")
    if not isinstance(bins, Integral) or bins < 1:
        raise ValueError(f"bins={bins!r}; accepted are whole numbers from 1")
    right = told[np.arange(len(told)), truth]
    confidence, chosen = told.max(1), told.argmax(1)
    bin_of = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    sums = np.zeros((len(told), 2 * bins + 1))
    sums[np.arange(len(told)), bin_of] = confidence
    sums[np.arange(len(told)), bins + bin_of] = chosen == truth
    sums[:, -1] = 1
    gap = np.abs(confidence - (chosen == truth))
    squares = (told**2).sum(1) - 2 * right + 1

    def ece(total: np.ndarray) -> np.ndarray:
        return np.abs(total[..., :bins] - total[..., bins:-1]).sum(-1) / total[..., -1]

    lower = {"best": 0.0, "higher_is_better": False}
    return {
        "ece": Score("ece", float(ece(sums.sum(0))), gap, sums, ece, **lower),
        "brier": mean_score("brier", squares, **lower),
        "nll": mean_score("nll", -np.log(np.maximum(right, 1e-300)), **lower),
    }


def _numbers_of(told: np.ndarray, labels: Classes) -> np.ndarray:
    """(N,) the class of each row of (N, C). Raises ValueError for other shapes, and for what are no such classes."""
    truth = np.asarray(labels)
    if told.ndim != 2 or truth.shape != told.shape[:1] or not len(told) or truth.dtype.kind not in "iub":
        raise ValueError(f"probabilities {told.shape}, labels {truth.dtype} {truth.shape}; give (N, C) and N classes")
    truth = truth.astype(np.int64)
    if truth.min() < 0 or truth.max() >= told.shape[1]:
        raise ValueError(f"labels must be 0..{told.shape[1] - 1}; got {truth.min()} to {truth.max()}")
    return truth


def auc(scores: Sequence[float] | np.ndarray, labels: Classes) -> float:
    """The chance that a row of class 1 has a higher score than one of class 0; ties count half (Hanley and McNeil).

    nan where one of the classes has no row.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if values.ndim != 1 or truth.shape != values.shape or not _is_binary(truth) or not np.isfinite(values).all():
        raise ValueError(f"scores {values.shape}, labels {truth.shape}; give a finite number and 0 or 1 for each row")
    positive = truth.astype(bool)
    if positive.all() or not positive.any():
        return float("nan")
    return float(_below(values[positive], values[~positive]).mean())


def _below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each value the share of others that are lower; equal ones count half."""
    order = np.sort(others)
    return (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right")) / (2 * len(order))


def macro_auc(probabilities: np.ndarray, labels: Classes) -> float:
    """The mean `auc` of each class against the others, over classes that have rows and are not all."""
    return macro_auc_score(probabilities, labels).value


def macro_auc_score(probabilities: np.ndarray, labels: Classes) -> Score:
    """`macro_auc` with what its interval needs. It has no value of an item by itself: `per_item` is nan.

    Its statistics are jackknife pseudo-values: what each row adds to the AUC of all, n times, plus the AUC; so the
    interval is that of DeLong et al. (1988), with rows of a picture drawn together.
    """
    told, truth = np.asarray(probabilities, np.float64), np.asarray(labels)
    if told.ndim != 2 or not np.isfinite(told).all():
        raise ValueError(f"probabilities {told.shape}; give finite numbers (N, C)")
    if truth.ndim == 2 and (truth.shape != told.shape or not _is_binary(truth)):
        raise ValueError(f"labels {truth.shape} and probabilities {told.shape}; give 0 and 1 (N, C), or N classes")
    of_class = truth == 1 if truth.ndim == 2 else _numbers_of(told, truth)[:, None] == np.arange(told.shape[1])
    known = [number for number in range(told.shape[1]) if 0 < of_class[:, number].sum() < len(told)]
    adds, values = np.zeros(len(told)), []
    for number in known:
        positive = of_class[:, number]
        above, below = told[positive, number], told[~positive, number]
        value = _below(above, below).mean()
        values.append(value)
        adds[positive] += (_below(above, below) - value) / (len(above) * len(known))
        adds[~positive] += (1 - _below(below, above) - value) / (len(below) * len(known))
    value = float(np.mean(values)) if known else float("nan")
    statistics = np.stack([np.nan_to_num(value) + len(told) * adds, np.ones(len(told))], -1)

    def of(sums: np.ndarray) -> np.ndarray:
        return np.clip(sums[..., 0] / np.maximum(sums[..., 1], 1), 0, 1) if known else np.full(sums.shape[:-1], np.nan)

    return Score("auc", value, np.full(len(told), np.nan), statistics, of)
