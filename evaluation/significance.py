"""Whether one model is better than another on the same items: the interval of the difference, and a paired test.

print(comparison_table([compare(ours[name], theirs[name], pictures) for name in ours]))
"""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from .intervals import CHUNK, by_group, check_resamples
from .scores import Score


@dataclass(frozen=True)
class Comparison:
    """ours, theirs: the metric of both. difference, low, high: ours - theirs with its interval. p_value: how often
    chance gives a difference as large where both are equally good. groups: how many were drawn."""

    name: str
    ours: float
    theirs: float
    difference: float
    low: float
    high: float
    p_value: float
    groups: int
    higher_is_better: bool = True

    @property
    def verdict(self) -> str:
        """ "better" or "worse" where the interval lies on one side of 0, "undecided" where it contains 0."""
        if not (self.low > 0 or self.high < 0):  # also where nobody knows the bounds
            return "undecided"
        return "better" if (self.low > 0) == self.higher_is_better else "worse"


def compare(
    ours: Score,
    theirs: Score,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """The difference of two scores of the same items, in the same order.

    The interval is a paired bootstrap: each resample draws the same groups for both. The p-value is that of a paired
    randomisation test: each group's outputs change sides by a coin, and differences at least as large are counted.

    Args:
        groups: n ids; rows with the same id (those of a picture) are drawn together. None: each row by itself.

    Raises: ValueError: another metric, or not the same number of items.
    """
    if ours.name != theirs.name or ours.statistics.shape != theirs.statistics.shape:
        raise ValueError(
            f"{ours.name} of {len(ours.statistics)} items and {theirs.name} of {len(theirs.statistics)}; give one "
            "metric of the same items for both"
        )
    check_resamples(confidence, resamples)
    ids = range(len(ours.statistics)) if groups is None else groups
    if len(ids) != len(ours.statistics):
        raise ValueError(f"{len(ids)} groups for {len(ours.statistics)} items; give one for each")
    a, b = by_group(ours.statistics, ids), by_group(theirs.statistics, ids)
    difference = float(ours.of(a.sum(0)) - ours.of(b.sum(0)))
    low, high, p_value = float("nan"), float("nan"), float("nan")
    if len(a) > 1:
        generator = np.random.default_rng(seed)
        drawn, by_chance = [], []
        for start in range(0, resamples, CHUNK):
            rows = min(CHUNK, resamples - start)
            counts = generator.multinomial(len(a), np.full(len(a), 1 / len(a)), size=rows)
            drawn.append(ours.of(counts @ a) - ours.of(counts @ b))
            moved = generator.integers(0, 2, size=(rows, len(a))) @ (b - a)
            by_chance.append(ours.of(a.sum(0) + moved) - ours.of(b.sum(0) - moved))
        low, high = np.nanquantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
        larger = np.abs(np.concatenate(by_chance)) >= abs(difference) - 1e-12
        p_value = float((1 + larger.sum()) / (1 + resamples))
    return Comparison(
        ours.name,
        ours.value,
        theirs.value,
        difference,
        float(low),
        float(high),
        p_value,
        len(a),
        ours.higher_is_better,
    )


def undecided_warnings(comparisons: Sequence[Comparison]) -> list[str]:
    """A line for each difference that a table would show as better or worse although its interval contains 0."""
    return [
        f"{one.name}: {one.ours:.4g} against {one.theirs:.4g} says nothing: the interval of the difference, "
        f"[{one.low:.4g}, {one.high:.4g}], contains 0"
        for one in comparisons
        if one.difference and one.verdict == "undecided"
    ]


def comparison_table(comparisons: Sequence[Comparison], warn: bool = True) -> str:
    """A table of comparisons as text, with one verdict a line.

    warn: also give a UserWarning for each of `undecided_warnings`.
    """
    width = max([len(one.name) for one in comparisons], default=6)
    lines = [f"{'metric':<{width}} {'ours':>9} {'theirs':>9} {'difference':>10}  {'interval':<21} {'p':>6}  verdict"]
    for one in comparisons:
        interval = f"[{one.low:.4g}, {one.high:.4g}]"
        lines.append(
            f"{one.name:<{width}} {one.ours:>9.4g} {one.theirs:>9.4g} {one.difference:>+10.4g}  {interval:<21} "
            f"{one.p_value:>6.3f}  {one.verdict}"
        )
    if warn:
        for line in undecided_warnings(comparisons):
            warnings.warn(line, UserWarning, stacklevel=2)
    return "\n".join(lines)
