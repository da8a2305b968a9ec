"""BLEU-1 to BLEU-4 of captions, of the corpus and of each caption, with several references.

    BLEU-N = min(1, exp(1 - r/c)) * (p_1 * ... * p_N)^(1/N)

p_n: the share of the predictions' n-grams that a reference has, each counted no more often than in the reference that
has it most often. c, r: words of the predictions, and of the reference of each that is nearest in length (the shorter
of two). Sums run over the corpus (Papineni et al. 2002). See docs/metrics.md.
"""

from collections.abc import Sequence

import numpy as np

from .ngrams import Table, count_ngrams
from .scores import References, Score, check_several, sum_score
from .tokens import Corpus, Tokenizer, read_corpus

SMOOTHINGS = ("exp", "none", "coco")


def bleu(
    predictions: Sequence[str],
    references: References,
    order: int = 4,
    *,
    tokenizer: Tokenizer = "ptb",
    smoothing: str = "exp",
) -> Score:
    """BLEU of n-grams of up to `order` words, 0..1.

    Args:
        references: a caption for each prediction, or several.
        tokenizer: see `tokens.splitter`.
        smoothing: of n-grams that never match: "exp", as sacrebleu, counts 1/2 for the first such length, 1/4 for the
            next, and leaves lengths out that a caption by itself is too short for; "none", as the paper, makes the
            score 0; "coco", as pycocoevalcap, adds 1e-15 and 1e-9.

    Returns: `value`, of the corpus; `per_item`, of each caption; `details`: precision_1.., brevity_penalty, lengths.

    Raises: TypeError, ValueError: for what is no sequence of strings, unequal numbers, or an unknown setting.
    """
    corpus = read_corpus(predictions, check_several(predictions, references), tokenizer)
    return bleu_of(corpus, order, smoothing)


def bleu_of(corpus: Corpus, order: int, smoothing: str = "exp", rows: np.ndarray | None = None) -> Score:
    """`bleu` of words. rows: what `bleu_statistics` counted of at least so many orders, where it is there."""
    if order < 1:
        raise ValueError(f"order={order}; accepted are whole numbers from 1")
    if smoothing not in SMOOTHINGS:
        raise ValueError(f"smoothing={smoothing!r}; accepted are {', '.join(SMOOTHINGS)}")
    counted = bleu_statistics(corpus, order) if rows is None else rows[:, : 2 + 2 * order]

    def of(sums: np.ndarray, whole: bool = True) -> np.ndarray:
        return _bleu(np.asarray(sums), smoothing, whole)

    sums = counted.sum(0)
    details = {f"precision_{n + 1}": float(_part(sums[2 + 2 * n], sums[3 + 2 * n])) for n in range(order)}
    details |= {
        "brevity_penalty": float(_brevity(sums[0], sums[1])),
        "predicted_words": float(sums[0]),
        "reference_words": float(sums[1]),
    }
    return sum_score(f"bleu{order}", counted, of, of(counted, whole=False), details=details)


def bleu_statistics(corpus: Corpus, order: int, tables: list[Table] | None = None) -> np.ndarray:
    """(n, 2 + 2 * order): words, words of the nearest reference, then matches and n-grams of each length.

    tables: of `count_ngrams`, where they are there.
    """
    lengths = np.array([len(words) for words in corpus.predictions], np.int64)
    nearest = _nearest_lengths(corpus, lengths)
    owner = np.array(corpus.owner, np.int64)
    columns = [lengths, nearest]
    for n, table in enumerate((tables or count_ngrams(corpus, order))[:order], start=1):
        there = table.references
        keys = owner[there.owner] * table.kinds + there.gram
        order_of_keys = np.argsort(keys, kind="stable")
        items, starts = np.unique(keys[order_of_keys], return_index=True)
        most = np.maximum.reduceat(there.count[order_of_keys], starts) if len(starts) else np.zeros(0, np.int64)
        told = table.predictions
        if len(items):
            wanted = told.owner * table.kinds + told.gram
            places = np.minimum(np.searchsorted(items, wanted), len(items) - 1)
            matched = np.where(items[places] == wanted, np.minimum(told.count, most[places]), 0)
        else:
            matched = np.zeros(len(told.owner), np.int64)
        columns.append(np.bincount(told.owner, matched, len(corpus)))
        columns.append(np.maximum(lengths - n + 1, 0))
    return np.stack(columns, -1).astype(np.float64)


def _nearest_lengths(corpus: Corpus, lengths: np.ndarray) -> np.ndarray:
    """For each prediction the length of its reference that is nearest in length; the shorter of two."""
    owner = np.array(corpus.owner, np.int64)
    given = np.array([len(words) for words in corpus.references], np.int64)
    best = np.lexsort((given, np.abs(given - lengths[owner]), owner))
    return given[best[np.searchsorted(owner[best], np.arange(len(lengths)))]]


def _part(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)


def _brevity(told: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """1 for predictions that are long enough, 0 for none at all."""
    some = np.asarray(told) > 0
    shorter = np.exp(1 - np.maximum(truth / np.where(some, told, 1), 1))
    return np.where(some, shorter, 0.0)


def _bleu(sums: np.ndarray, smoothing: str, whole: bool) -> np.ndarray:
    """BLEU (...) of sums (..., 2 + 2 * order). whole: of a corpus, whose missing n-grams are misses."""
    told, truth, matches, totals = sums[..., 0], sums[..., 1], sums[..., 2::2], sums[..., 3::2]
    if smoothing == "coco":
        score = np.prod((matches + 1e-15) / (totals + 1e-9), -1) ** (1 / matches.shape[-1])
        return score * np.exp(1 - np.maximum(1 / ((told + 1e-15) / (truth + 1e-9)), 1))
    shares = _part(matches, totals)
    known = totals > 0
    if smoothing == "exp":
        missed = known & (matches == 0)
        shares = np.where(missed, _part(0.5 ** np.cumsum(missed, -1), totals), shares)
        shares = np.where(matches.any(-1, keepdims=True), shares, 0)
    counted = known if not whole and smoothing == "exp" else np.ones_like(known)
    with np.errstate(divide="ignore"):
        logs = np.where(counted, np.log(shares), 0)
    return np.exp(logs.sum(-1) / np.maximum(counted.sum(-1), 1)) * _brevity(told, truth) * (matches[..., 0] > 0)
