"""A metric in groups of items: each with its interval, and whether the worst group is worse than chance makes it.

    found = group_scores(score, ["day", "night", ...], pictures)
    found.groups[0].value, found.gap.verdict

The worst of several groups looks bad even where groups do not matter: one of them is always the lowest, and small ones
are often. So the test asks how large the gap of the worst group would be if group names were dealt out at random, to
whole pictures, and a group of few pictures is not judged at all.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from .intervals import CHUNK, check_resamples, grouped_interval
from .scores import Score, share

FEW = 10  # pictures; a group of fewer is shown and not judged


@dataclass(frozen=True)
class Group:
    """A metric of the items of one group: value with its interval (nan where nobody knows it), how many items and
    pictures they are."""

    name: str
    value: float
    low: float
    high: float
    items: int
    pictures: int

    @property
    def is_small(self) -> bool:
        return self.pictures < FEW


@dataclass(frozen=True)
class Gap:
    """How far the worst group is from all others together: others - worst (worst - others of an error).

    low, high: the interval of that difference, of this group. p_value: how often names dealt out at random give the
    worst group a gap as large.
    """

    worst: str
    value: float
    low: float
    high: float
    p_value: float

    @property
    def verdict(self) -> str:
        """ "worse" where the interval lies above 0 and p is at most 0.05; otherwise "undecided"."""
        return "worse" if self.low > 0 and self.p_value <= 0.05 else "undecided"


@dataclass(frozen=True)
class GroupScores:
    """name: of the metric. groups: the worst first. gap: None where it cannot be judged; why_no_gap then says why."""

    name: str
    groups: list[Group]
    gap: Gap | None
    why_no_gap: str = ""
    higher_is_better: bool = True


def group_scores(
    score: Score,
    names: Sequence[str],
    pictures: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> GroupScores:
    """A metric that is the mean of its items, or one sum over another as an error rate is, in groups. Items without a
    value (nan) are left out.

    Args:
        names: the group of each item.
        pictures: n ids; items with the same id are drawn together. None: each item by itself.

    Raises: ValueError for other lengths, and for a metric that is made of its items in another way.
    """
    ids = list(range(len(names))) if pictures is None else list(pictures)
    if not len(score.per_item) == len(names) == len(ids):
        raise ValueError(f"{len(score.per_item)} items, {len(names)} groups, {len(ids)} pictures; give one for each")
    if score.of is not share:
        raise ValueError(f"{score.name} is no mean of its items and no rate, so groups cannot be compared by it")
    check_resamples(confidence, resamples)
    known = np.flatnonzero(score.statistics[:, :2].any(1))
    values = score.statistics[known, :2]  # (n, 2): what `share` divides
    held, kept = [str(names[number]) for number in known.tolist()], [ids[number] for number in known.tolist()]
    if not held:
        raise ValueError(f"{score.name} has no value for any item")
    found = []
    for name in dict.fromkeys(held):
        own = [number for number, other in enumerate(held) if other == name]
        clusters = [kept[number] for number in own]
        bounds = grouped_interval(values[own], clusters, share, confidence, resamples, seed)
        found.append(Group(name, *bounds, items=len(own), pictures=len(set(clusters))))
    sign = 1 if score.higher_is_better else -1
    found.sort(key=lambda group: (np.isnan(group.value), sign * group.value, group.name))
    gap, why = _gap(values * [sign, 1], held, kept, found, confidence, resamples, seed)
    return GroupScores(score.name, found, gap, why, score.higher_is_better)


def _gap(
    values: np.ndarray,
    names: list[str],
    ids: list[Hashable],
    groups: list[Group],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[Gap | None, str]:
    """The gap of the worst group, or why there is none. values (n, 2): sums whose share is better if it is higher."""
    total = len(set(ids))
    judged = [group.name for group in groups if not group.is_small and total - group.pictures >= FEW]
    if len(groups) < 2:
        return None, f"all items are of one group, {groups[0].name!r}"
    if not judged:
        return None, f"no group has {FEW} pictures or more, with as many in the others"
    number_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
    picture_of = {one: number for number, one in enumerate(dict.fromkeys(ids))}
    units = {unit: number for number, unit in enumerate(dict.fromkeys(zip(ids, names, strict=True)))}
    unit = np.array([units[pair] for pair in zip(ids, names, strict=True)])
    sums = np.stack([np.bincount(unit, column) for column in values.T], -1)  # (U, 2): a picture's items of one group
    group = np.array([number_of[name] for _, name in units])
    picture = np.array([picture_of[one] for one, _ in units])
    among = np.array([number_of[name] for name in judged])

    gaps = _shortfall(sums, group, len(number_of))[among]
    worst = int(gaps.argmax())
    generator = np.random.default_rng(seed)
    by_chance = np.array(
        [_shortfall(sums, generator.permutation(group), len(number_of))[among].max() for _ in range(resamples)]
    )
    p_value = float((1 + (by_chance >= gaps[worst] - 1e-12).sum()) / (1 + resamples))
    both = np.zeros((total, 4))  # of each picture: sum and count in the worst group, and in the others
    is_worst = group == among[worst]
    np.add.at(
        both, picture, np.where(is_worst[:, None], np.pad(sums, ((0, 0), (0, 2))), np.pad(sums, ((0, 0), (2, 0))))
    )
    drawn = []
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        counts = generator.multinomial(total, np.full(total, 1 / total), size=rows)
        held = counts @ both
        drawn.append(share(held[:, 2:]) - share(held[:, :2]))
    low, high = np.nanquantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Gap(judged[worst], float(gaps[worst]), float(low), float(high), p_value), ""


def _shortfall(sums: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """(K,) by how much each group is lower than all others together."""
    own = np.stack([np.bincount(group, sums[:, column], groups) for column in (0, 1)], -1)
    others = own.sum(0) - own
    return np.nan_to_num(share(others) - share(own), nan=-np.inf)
