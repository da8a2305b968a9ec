"""How well captions match their references: exact match, chrF, and how sure the numbers are.

Captions are compared in lower case, in one Unicode normal form (é is one letter however it was typed), without white
space at the ends and with one space where there are several.
Several systems on the same pictures are compared by the interval of their difference, picture by picture:

    bootstrap_interval(exact_match(ours, references).per_item - exact_match(theirs, references).per_item)

Where a picture has several captions, the one that is nearest counts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .bleu import bleu_of, bleu_statistics
from .cider import LONGEST, cider_of
from .intervals import check_resamples
from .meteor import meteor_of
from .ngrams import count_ngrams
from .rouge import rouge_l_of
from .scores import References, Score, check_several, mean_score, normalize_caption, sum_score
from .tokens import Tokenizer, read_corpus

CAPTION_METRICS = ("exact_match", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "meteor", "cider_d", "cider", "chrf")


def exact_match(predictions: Sequence[str], references: References) -> Score:
    """Share of captions, 0..1, that equal one of their references.

    Raises:
        TypeError: one string instead of a sequence.
        ValueError: not as many predictions as references, or none.
    """
    pairs = zip(predictions, check_several(predictions, references), strict=True)
    hits = [normalize_caption(ours) in {*map(normalize_caption, truth)} for ours, truth in pairs]
    return mean_score("exact_match", hits)


def chrf(predictions: Sequence[str], references: References) -> Score:
    """Corpus chrF, 0..100, as sacrebleu counts it by default (character 1- to 6-grams, beta 2), against the nearest of
    several references.

    Two empty captions have nothing in common there: 0, where their exact match is 1.

    Raises:
        TypeError, ValueError: as `exact_match`.
        ModuleNotFoundError: sacrebleu (the extra `eval`) is not installed.
    """
    several = check_several(predictions, references)
    from sacrebleu.metrics.chrf import CHRF

    most = max(map(len, several))  # sacrebleu takes as many references for each; one that comes twice adds nothing
    streams = [[normalize_caption(truth[min(place, len(truth) - 1)]) for truth in several] for place in range(most)]
    counted = CHRF()._extract_corpus_statistics([normalize_caption(ours) for ours in predictions], streams)
    return sum_score("chrf", np.array(counted, np.float64), _chrf_of, best=100.0)


def _chrf_of(sums: np.ndarray) -> np.ndarray:
    """chrF (...) of sums (..., 18) of what sacrebleu counts in each caption."""
    from sacrebleu.metrics.chrf import CHRF

    score: Any = CHRF()._compute_f_score  # typed for a list, and reads any row
    return np.apply_along_axis(score, -1, sums)


def caption_scores(
    predictions: Sequence[str],
    references: References,
    metrics: Sequence[str] = CAPTION_METRICS,
    *,
    tokenizer: Tokenizer = "ptb",
) -> dict[str, Score]:
    """Several metrics at once, which split captions into words and count n-grams only once: {"bleu4": Score, ...}.

    Args:
        references: a caption for each prediction, or several.
        metrics: names out of CAPTION_METRICS. Each has a function of the same name with more settings.
        tokenizer: of the metrics of words; see `tokens.splitter`.

    Raises:
        TypeError, ValueError: for what is no sequence of strings, unequal numbers, or an unknown name; for "cider_d"
            and "cider" of one picture.
        ModuleNotFoundError: what "chrf" (sacrebleu) or "meteor" (snowballstemmer) needs is not installed; the extra
            `eval` brings both.
    """
    unknown = [name for name in metrics if name not in CAPTION_METRICS]
    if unknown:
        raise ValueError(f"metrics={unknown}; accepted are {', '.join(CAPTION_METRICS)}")
    several = check_several(predictions, references)
    corpus = read_corpus(predictions, several, tokenizer)
    orders = [int(name[-1]) for name in metrics if name.startswith("bleu")]
    longest = max([*orders, LONGEST if {"cider", "cider_d"} & {*metrics} else 0])
    tables = count_ngrams(corpus, longest)
    rows = bleu_statistics(corpus, max(orders), tables) if orders else None
    makers: dict[str, Callable[[], Score]] = {
        "exact_match": lambda: exact_match(predictions, several),
        "rouge_l": lambda: rouge_l_of(corpus),
        "meteor": lambda: meteor_of(corpus),
        "cider_d": lambda: cider_of(corpus, tables=tables),
        "cider": lambda: cider_of(corpus, "cider", None, tables=tables),
        "chrf": lambda: chrf(predictions, several),
    }
    return {name: makers[name]() if name in makers else bleu_of(corpus, int(name[-1]), rows=rows) for name in metrics}


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
    check_resamples(confidence, resamples)
    generator = np.random.default_rng(seed)
    means = np.array([values[generator.integers(len(values), size=len(values))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
