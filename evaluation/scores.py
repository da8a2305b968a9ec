"""What every metric of this folder returns: a `Score`.

    score = bleu(predictions, references)   # n predictions, and for each a reference or a list of them
    score.value                             # the metric of the whole corpus
    score.per_item                          # (n,) the metric of each item by itself, nan where it has none
    score.interval(groups)                  # (value, low, high): 95 %, bootstrap over groups (pictures)
    compare(score, other)                   # of `significance`: is one model better, on the same items

A new metric is a function `(predictions, references, *, settings) -> Score` in a file of its own. It fills in
`statistics` (n, K), what each item adds to the sums that the metric is made of, and `of`, which makes the metric of
such sums (..., K): so intervals and paired tests need no second count. `mean_score` and `median_score` do both for
a metric that is the mean or the median of its items. Predictions and references are normalised alike, and what the
caller gave is never changed.
"""

import math
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .intervals import grouped_interval

STEPS = 64  # different values that a median tells apart
References = Sequence[str] | Sequence[Sequence[str]]  # one for each item, or several


@dataclass(frozen=True, eq=False)
class Score:
    """A metric of n items.

    name: as it stands in tables and files, such as "bleu4".
    value: of the corpus.
    per_item: (n,), of each item by itself, nan where it has none. Its mean is not always `value`.
    statistics: (n, K), what each item adds to sums; `of` makes the metric (...) of sums (..., K).
    best: the value of a perfect result, such as 1, 10 or 100, and 0 for an error rate.
    details: further numbers, such as the lengths that BLEU compares.
    """

    name: str
    value: float
    per_item: np.ndarray
    statistics: np.ndarray
    of: Callable[[np.ndarray], np.ndarray]
    best: float = 1.0
    higher_is_better: bool = True
    details: Mapping[str, float] = field(default_factory=dict)

    def __float__(self) -> float:
        return self.value

    def interval(
        self, groups: Sequence[Hashable] | None = None, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> tuple[float, float, float]:
        """(value, low, high), drawing groups of items with replacement; None: every item is its own group."""
        ids = range(len(self.statistics)) if groups is None else groups
        return grouped_interval(self.statistics, ids, self.of, confidence, resamples, seed)


def mean_score(name: str, per_item: Sequence[float] | np.ndarray, **settings) -> Score:
    """The score of a metric that is the mean of its items; items that have none (nan) are left out of it."""
    values = np.asarray(per_item, np.float64)
    known = ~np.isnan(values)
    statistics = np.stack([np.where(known, values, 0), known], -1).astype(np.float64)
    return Score(name, float(share(statistics.sum(0))), values, statistics, share, **settings)


def sum_score(
    name: str,
    statistics: np.ndarray,
    of: Callable[[np.ndarray], np.ndarray],
    per_item: np.ndarray | None = None,
    **settings,
) -> Score:
    """The score of a metric of sums; each item's by itself is that of its own row, unless `per_item` is given."""
    rows = np.asarray(statistics, np.float64)
    return Score(name, float(of(rows.sum(0))), of(rows) if per_item is None else per_item, rows, of, **settings)


def median_score(name: str, per_item: Sequence[float] | np.ndarray, **settings) -> Score:
    """The score of a metric that is the median of its items, such as a rank; items that have none (nan) are left out.

    Of more than 64 different values those around the median are told apart, and the others count as the nearest kept.
    """
    values = np.asarray(per_item, np.float64)
    known = np.sort(values[~np.isnan(values)])
    statistics = np.zeros((len(values), 1))
    kept = np.zeros(1)
    if len(known):
        places = np.clip(np.round((len(known) - 1) * _around_the_middle(len(known))), 0, len(known) - 1).astype(int)
        kept = np.unique(known) if len(np.unique(known)) <= STEPS else np.unique(known[places])
        steps = (kept[1:] + kept[:-1]) / 2
        statistics = np.zeros((len(values), len(kept)))
        there = ~np.isnan(values)
        statistics[np.flatnonzero(there), np.searchsorted(steps, values[there])] = 1

    def median(sums: np.ndarray) -> np.ndarray:
        total = sums.cumsum(-1)
        middle = total[..., -1:] / 2
        below, above = (total >= middle).argmax(-1), (total > middle).argmax(-1)
        return np.where(total[..., -1] > 0, (kept[below] + kept[above]) / 2, np.nan)

    value = float(np.median(known)) if len(known) else float("nan")
    settings = {"best": 1.0, "higher_is_better": False} | settings
    return Score(name, value, values, statistics, median, **settings)


def _around_the_middle(count: int) -> np.ndarray:
    """Parts 0..1 of a sorted list: both middle items, half of the others where medians of resamples lie."""
    reach = min(0.5, 4 / math.sqrt(count))
    middle = np.array([(count - 1) // 2, count // 2]) / max(count - 1, 1)
    parts = [np.linspace(0, 1, STEPS // 2 - 2), np.linspace(0.5 - reach, 0.5 + reach, STEPS // 2), middle]
    return np.unique(np.concatenate(parts))


def share(sums: np.ndarray) -> np.ndarray:
    """The first sum as a part of the second, nan where the second is 0."""
    part, whole = sums[..., 0], sums[..., 1]
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def normalize_caption(caption: str) -> str:
    """`caption` in lower case and NFC, white space at the ends removed and within reduced to single spaces."""
    return " ".join(unicodedata.normalize("NFC", caption.lower()).split())


def check_pairs(predictions: Sequence[str], references: References) -> None:
    """Raises TypeError for what is no sequence of strings, ValueError for unequal numbers or none."""
    for name, captions in (("predictions", predictions), ("references", references)):
        if isinstance(captions, str):
            raise TypeError(f"{name} is one string; give a sequence of captions")
    if len(predictions) != len(references) or len(references) == 0:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references; give one each, and at least one"
        )
    for number, prediction in enumerate(predictions):
        if not isinstance(prediction, str):
            raise TypeError(f"predictions[{number}] is a {type(prediction).__name__}; give one string for each item")


def check_several(predictions: Sequence[str], references: References) -> list[list[str]]:
    """A list of references for each prediction, of one string or several for each. Raises as `check_pairs`."""
    check_pairs(predictions, references)
    several = []
    for number, truth in enumerate(references):
        given = [truth] if isinstance(truth, str) else list(truth)
        if not given:
            raise ValueError(f"references[{number}] is empty; give at least one caption for each prediction")
        for one in given:
            if not isinstance(one, str):
                raise TypeError(f"references[{number}] holds a {type(one).__name__}; give strings")
        several.append(given)
    return several
