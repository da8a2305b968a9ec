"""How well captions match their references: exact match, chrF, and how sure the numbers are.

Captions are compared in lower case, in one Unicode normal form (é is one letter however it was typed), without white
space at the ends and with one space where there are several.
Several systems on the same pictures are compared by the interval of their difference, picture by picture:

    bootstrap_interval(exact_matches(ours, references) - exact_matches(theirs, references))

Where a picture has several captions, `best_matches` and `chrf_statistics` take the one that is nearest.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np


def normalize_caption(caption: str) -> str:
    """`caption` in lower case and NFC, white space at the ends removed and within reduced to single spaces."""
    return " ".join(unicodedata.normalize("NFC", caption.lower()).split())


def _check_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    for name, captions in (("predictions", predictions), ("references", references)):
        if isinstance(captions, str):
            raise TypeError(f"{name} is one string; give a sequence of captions")
    if len(predictions) != len(references) or len(references) == 0:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references; give one each, and at least one"
        )


def exact_matches(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """float64 (n,): 1.0 where a caption equals its reference, else 0.0.

    Raises:
        ValueError: not as many predictions as references, or none.
    """
    _check_pairs(predictions, references)
    pairs = zip(predictions, references, strict=True)
    return np.array([normalize_caption(ours) == normalize_caption(truth) for ours, truth in pairs], np.float64)


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of captions, 0..1, that equal their reference. Raises as `exact_matches`."""
    return float(exact_matches(predictions, references).mean())


def chrf(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF, 0..100, as sacrebleu counts it by default (character 1- to 6-grams, beta 2).

    Two empty captions have nothing in common there: 0, where their exact match is 1.

    Raises:
        ValueError: not as many predictions as references, or none.
        ModuleNotFoundError: sacrebleu (the extra `eval`) is not installed.
    """
    from sacrebleu.metrics.chrf import CHRF

    _check_pairs(predictions, references)
    normal_references = [normalize_caption(caption) for caption in references]
    return CHRF().corpus_score([normalize_caption(caption) for caption in predictions], [normal_references]).score


def best_matches(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """float64 (n,): 1.0 where a caption equals one of its references, else 0.0. Raises as `exact_matches`."""
    _check_several(predictions, references)
    pairs = zip(predictions, references, strict=True)
    return np.array([normalize_caption(ours) in {*map(normalize_caption, truth)} for ours, truth in pairs], np.float64)


def chrf_statistics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(n, 18): what sacrebleu counts for chrF in each caption, against the nearest of its references.

    `chrf_of` makes chrF of sums of rows, so resamples need no second count. Raises as `chrf`.
    """
    from sacrebleu.metrics.chrf import CHRF

    _check_several(predictions, references)
    most = max(map(len, references))  # sacrebleu takes as many references for each; one that comes twice adds nothing
    streams = [[normalize_caption(truth[min(place, len(truth) - 1)]) for truth in references] for place in range(most)]
    counted = CHRF()._extract_corpus_statistics([normalize_caption(ours) for ours in predictions], streams)
    return np.array(counted, np.float64)


def chrf_of(sums: np.ndarray) -> np.ndarray:
    """chrF (...), 0..100, of sums (..., 18) of `chrf_statistics`."""
    from sacrebleu.metrics.chrf import CHRF

    score: Any = CHRF()._compute_f_score  # typed for a list, and reads any row
    return np.apply_along_axis(score, -1, sums)


def _check_several(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    _check_pairs(predictions, references)  # pyright: ignore[reportArgumentType]: only their number is looked at
    for number, truth in enumerate(references):
        if isinstance(truth, str):
            raise TypeError(f"references[{number}] is one string; give a list of captions for each prediction")
        if not len(truth):
            raise ValueError(f"references[{number}] is empty; give at least one caption for each prediction")


def bootstrap_interval(
    scores: np.ndarray | Sequence[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of `scores` (n,), the same for the same seed.

    Give differences between two systems, sample by sample, for a paired comparison.

    Raises:
        ValueError: `scores` is not one row of finite numbers, or confidence or resamples is out of range.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"scores has shape {values.shape}; give one row of at least one number, all finite")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"confidence={confidence}, resamples={resamples}; accepted: 0 < confidence < 1, resamples >= 1"
        )
    generator = np.random.default_rng(seed)
    means = np.array([values[generator.integers(len(values), size=len(values))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
