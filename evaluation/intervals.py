"""How sure a number is: bootstrap intervals that draw whole pictures, not rows.

The captions or questions of one picture are not independent, so a resample holds all rows of a picture or none of
them. A metric is a function of sums over rows (hits and rows for an accuracy, counts of n-grams for chrF), so each
resample is one matrix product:

    counts (resamples, G) @ sums of each picture (G, K) -> sums (resamples, K) -> the metric of each
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

CHUNK = 200  # resamples at a time


def check_resamples(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"confidence={confidence}, resamples={resamples}; accepted: 0 < confidence < 1, resamples >= 1"
        )


def by_group(statistics: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """(G, K): the sums of the rows (n, K) of each group, in the order in which groups appear."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(numbers), statistics.shape[1]))
    np.add.at(sums, [numbers[group] for group in groups], statistics)
    return sums


def grouped_interval(
    statistics: np.ndarray,
    groups: Sequence[Hashable],
    metric: Callable[[np.ndarray], np.ndarray],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A metric with its percentile bootstrap interval, resampling groups: (value, low, high).

    Args:
        statistics: (n, K), what each row adds to the sums that the metric is made of.
        groups: n ids; rows with the same id (those of a picture) are drawn together.
        metric: sums (..., K) to values (...).

    With one group nobody knows the bounds: they are nan. Where all rows are equal the interval is a point, which says
    only that nothing varied. Resamples in which the metric has no value (nan) are left out.
    """
    rows = np.asarray(statistics, np.float64)
    if rows.ndim != 2 or not len(rows) or len(rows) != len(groups) or not np.isfinite(rows).all():
        raise ValueError(
            f"statistics has shape {rows.shape} for {len(groups)} groups; give one row of finite numbers for each, "
            "and at least one"
        )
    check_resamples(confidence, resamples)
    sums = by_group(rows, groups)
    if len(sums) == 1:
        return float(metric(sums[0])), float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    even = np.full(len(sums), 1 / len(sums))
    values = []
    for start in range(0, resamples, CHUNK):
        counts = generator.multinomial(len(sums), even, size=min(CHUNK, resamples - start))
        values.append(metric(counts @ sums))
    low, high = np.nanquantile(np.concatenate(values), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(metric(sums.sum(0))), float(low), float(high)


def mean_interval(
    scores: Sequence[float] | np.ndarray, groups: Sequence[Hashable], **settings
) -> tuple[float, float, float]:
    """The mean of one score for each row, with its interval; see `grouped_interval`."""
    values = np.asarray(scores, np.float64)
    return grouped_interval(np.stack([values, np.ones_like(values)], -1), groups, _share, **settings)


def _share(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]
