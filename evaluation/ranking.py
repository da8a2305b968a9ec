"""Metrics of one ranked list for each query, of what is right in it: recall, rank, precision, nDCG; with ties.

Q queries, P right pairs of a query and a candidate, C candidates of each query. A right candidate that has N
candidates above it and shares its score with n - 1 others, r of the n being right, w = n - r wrong:

    ties="average"   the mean over all orders of what is tied: a model that gives every pair one score has the metrics
                     of guessing
    ties="worst"     the wrong ones of a tie come first: it has the metrics of the worst order
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TIES = ("average", "worst")


@dataclass(frozen=True)
class RightPairs:
    """What is counted of P right pairs, sorted by query, and by rank within it.

    query: (P,) its number. above: (P,) N, candidates with a higher score. tied: (P,) n, those with the same score,
    itself among them. right_above, right_tied: (P,) how many of those are right. queries: Q. candidates: C.
    """

    query: np.ndarray
    above: np.ndarray
    tied: np.ndarray
    right_above: np.ndarray
    right_tied: np.ndarray
    queries: int
    candidates: int


def ranking_metrics(pairs: RightPairs, ks: Sequence[int], ties: str, cut: int | None = None) -> dict[str, np.ndarray]:
    """{"r1": (Q,), ..., "p1": (Q,), ..., "rank", "map", "ndcg", "rprecision"}, nan for a query with nothing right.

    r{k}: whether one of the first k is right. p{k}: how much of the first k is right. rprecision: the same of as many
    as are right. rank: of the first right one, from 1. map: average precision. ndcg: gains 0 and 1, of the first cut.
    """
    found = {f"r{k}": _first_hits(pairs, k, ties) for k in ks}
    found |= {f"p{k}": _per_query(pairs, _within_first(pairs, k, ties)) / k for k in ks}
    count = np.bincount(pairs.query, minlength=pairs.queries)
    found["rank"] = _first_ranks(pairs, ties)
    found["map"] = _per_query(pairs, _precisions(pairs, ties)) / np.maximum(count, 1)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(pairs.candidates) + 2))])
    if cut is not None:
        discounts[cut + 1 :] = discounts[min(cut, pairs.candidates)]
    found["ndcg"] = _per_query(pairs, _gains(pairs, discounts, ties)) / np.maximum(discounts[count], 1e-300)
    found["rprecision"] = _per_query(pairs, _within_first(pairs, count[pairs.query], ties)) / np.maximum(count, 1)
    return found


def _per_query(pairs: RightPairs, values: np.ndarray) -> np.ndarray:
    """The sum over the right pairs of each query; nan where there are none."""
    sums = np.bincount(pairs.query, weights=values, minlength=pairs.queries)
    return np.where(np.bincount(pairs.query, minlength=pairs.queries) > 0, sums, np.nan)


def _worst_position(pairs: RightPairs) -> np.ndarray:
    """(P,) its rank from 1 where the wrong ones of a tie come first."""
    starts = np.searchsorted(pairs.query, pairs.query)
    among_tied = np.clip(np.arange(len(pairs.query)) - starts - pairs.right_above + 1, 1, pairs.right_tied)
    return pairs.above + pairs.tied - pairs.right_tied + among_tied


def _within_first(pairs: RightPairs, k: int | np.ndarray, ties: str) -> np.ndarray:
    """(P,) the chance that it is among the first k."""
    if ties == "worst":
        return (_worst_position(pairs) <= k).astype(np.float64)
    return np.clip((k - pairs.above) / pairs.tied, 0, 1)


def _first(pairs: RightPairs) -> tuple[np.ndarray, ...]:
    """The queries that have a right one, and N, n, r of the first of it."""
    queries, place = np.unique(pairs.query, return_index=True)
    return queries, pairs.above[place], pairs.tied[place], pairs.right_tied[place]


def _first_hits(pairs: RightPairs, k: int, ties: str) -> np.ndarray:
    queries, above, tied, right = _first(pairs)
    found = np.full(pairs.queries, np.nan)
    if ties == "worst":
        found[queries] = above + tied - right + 1 <= k
        return found
    drawn, wrong = np.clip(k - above, 0, tied), tied - right
    none_right = np.ones(len(queries))  # (w choose d) / (n choose d), a factor at a time
    for step in range(int(drawn.max(initial=0))):
        factor = np.maximum(wrong - step, 0) / np.maximum(tied - step, 1)
        none_right = np.where(step < drawn, none_right * factor, none_right)
    found[queries] = 1 - none_right
    return found


def _first_ranks(pairs: RightPairs, ties: str) -> np.ndarray:
    queries, above, tied, right = _first(pairs)
    before = tied - right if ties == "worst" else (tied - right) / (right + 1)
    found = np.full(pairs.queries, np.nan)
    found[queries] = above + before + 1
    return found


def _precisions(pairs: RightPairs, ties: str) -> np.ndarray:
    """(P,) the share of right ones down to it, as the mean over the orders of its tie (McSherry and Najork 2008)."""
    if ties == "worst":
        place = _worst_position(pairs)
        return (pairs.right_above + place - pairs.above - pairs.tied + pairs.right_tied) / place
    above, tied = pairs.above, pairs.tied
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, pairs.candidates + 1))])
    inverse = harmonic[above + tied] - harmonic[above]  # the sum of 1 / (N + j) over j = 1 .. n
    others = np.where(tied > 1, (pairs.right_tied - 1) / np.maximum(tied - 1, 1), 0)
    mean = ((pairs.right_above + 1) * inverse + others * (tied - (above + 1) * inverse)) / tied
    return np.where(tied == 1, (pairs.right_above + 1) / (above + 1), mean)


def _gains(pairs: RightPairs, discounts: np.ndarray, ties: str) -> np.ndarray:
    """(P,) 1 / log2(1 + its rank)."""
    if ties == "worst":
        place = _worst_position(pairs)
        return discounts[place] - discounts[place - 1]
    return (discounts[pairs.above + pairs.tied] - discounts[pairs.above]) / pairs.tied
