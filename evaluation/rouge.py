"""ROUGE-L: the longest common subsequence of words of a caption and its reference.

    P = lcs / words of the caption    R = lcs / words of the reference    F = (1 + beta^2) P R / (R + beta^2 P)

Of several references the one with the highest F counts (Lin 2004, as rouge-score). See docs/metrics.md.
"""

from collections.abc import Sequence

import numpy as np

from .scores import References, Score, check_several, mean_score
from .tokens import Corpus, Tokenizer, read_corpus


def rouge_l(
    predictions: Sequence[str],
    references: References,
    *,
    tokenizer: Tokenizer = "ptb",
    beta: float = 1.2,
    best: str = "reference",
) -> Score:
    """ROUGE-L, 0..1. `per_item` is of each caption, `value` their mean.

    Args:
        references: a caption for each prediction, or several.
        tokenizer: see `tokens.splitter`.
        beta: the weight of recall; 1.2, as COCO; 1 is the F1 of rouge-score.
        best: "reference" compares with each reference and takes the best; "coco", as pycocoevalcap, takes the highest
            P and the highest R, which may be those of two references: a caption that equals none may have 1.0.

    Raises: TypeError, ValueError: for what is no sequence of strings, unequal numbers, or an unknown setting.
    """
    return rouge_l_of(read_corpus(predictions, check_several(predictions, references), tokenizer), beta, best)


def rouge_l_of(corpus: Corpus, beta: float = 1.2, best: str = "reference") -> Score:
    """`rouge_l` of words."""
    if best not in ("reference", "coco"):
        raise ValueError(f"best={best!r}; accepted are reference, coco")
    if not beta > 0:
        raise ValueError(f"beta={beta}; accepted are numbers above 0")
    owner = np.array(corpus.owner, np.int64)
    common = np.array(_common_lengths(corpus), np.float64)
    told = np.array([len(words) for words in corpus.predictions])[owner]
    truth = np.array([len(words) for words in corpus.references])
    precision, recall = common / np.maximum(told, 1), common / np.maximum(truth, 1)
    starts = np.searchsorted(owner, np.arange(len(corpus)))
    if best == "coco":
        precision, recall = np.maximum.reduceat(precision, starts), np.maximum.reduceat(recall, starts)
        return mean_score("rouge_l", _f(precision, recall, beta))
    return mean_score("rouge_l", np.maximum.reduceat(_f(precision, recall, beta), starts))


def _f(precision: np.ndarray, recall: np.ndarray, beta: float) -> np.ndarray:
    below = recall + beta**2 * precision
    return np.divide((1 + beta**2) * precision * recall, below, out=np.zeros_like(below), where=below > 0)


def _common_lengths(corpus: Corpus) -> list[int]:
    """The length of the longest common subsequence of each reference and its prediction."""
    places: list[dict[str, int]] = []
    for words in corpus.predictions:
        bits: dict[str, int] = {}
        for place, word in enumerate(words):
            bits[word] = bits.get(word, 0) | 1 << place
        places.append(bits)
    return [
        _common(places[item], len(corpus.predictions[item]), words)
        for item, words in zip(corpus.owner, corpus.references, strict=True)
    ]


def _common(places: dict[str, int], length: int, words: list[str]) -> int:
    """By bits (Hyyrö 2004): a 0 at place i says that the common subsequence grows by the word i of the prediction."""
    row = everything = (1 << length) - 1
    for word in words:
        if match := places.get(word, 0):
            row = (row + (row & match) | row & ~match) & everything
    return length - row.bit_count()
