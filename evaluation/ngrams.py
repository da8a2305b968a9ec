"""The n-grams of many captions at once, as arrays: BLEU and CIDEr are joins of two such tables.

owner  gram  count        caption 0 has gram 5 twice and gram 9 once, caption 1 has gram 5 once
  0      5     2
  0      9     1
  1      5     1
"""

from dataclasses import dataclass

import numpy as np

from .tokens import Corpus


@dataclass(frozen=True)
class Grams:
    """Which caption (E,) has which n-gram (E,) how often (E,), in the order of captions and n-grams."""

    owner: np.ndarray
    gram: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class Table:
    """The n-grams of one length n.

    predictions, references: of each prediction, and of each of the R references.
    kinds: how many different n-grams there are.
    """

    predictions: Grams
    references: Grams
    kinds: int


def _group(owner: np.ndarray, gram: np.ndarray, kinds: int) -> Grams:
    keys, count = np.unique(owner * kinds + gram, return_counts=True)
    return Grams(keys // kinds, keys % kinds, count)


def count_ngrams(corpus: Corpus, longest: int) -> list[Table]:
    """The tables of n-grams of 1, 2, ..., `longest` words."""
    captions = corpus.predictions + corpus.references
    numbers: dict[str, int] = {}
    words = np.array([numbers.setdefault(word, len(numbers)) for caption in captions for word in caption], np.int64)
    lengths = np.array([len(caption) for caption in captions], np.int64)
    owner = np.repeat(np.arange(len(captions)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the end of the caption
    gram, tables = words, []
    for n in range(1, longest + 1):
        if n > 1:  # an n-gram is a shorter one and the word after it
            starts = np.flatnonzero(left >= n)
            whole = np.full(len(words), -1)
            whole[starts] = gram[starts] * max(len(numbers), 1) + words[starts + n - 1]
            gram = whole
        here = np.flatnonzero(left >= n)
        kinds, gram_here = np.unique(gram[here], return_inverse=True)
        gram = np.full(len(words), -1)
        gram[here] = gram_here
        predicted = owner[here] < len(corpus)
        many = max(len(kinds), 1)
        tables.append(
            Table(
                _group(owner[here][predicted], gram_here[predicted], many),
                _group(owner[here][~predicted] - len(corpus), gram_here[~predicted], many),
                many,
            )
        )
    return tables


def counts_of(grams: Grams, owner: np.ndarray, gram: np.ndarray, kinds: int) -> np.ndarray:
    """How often the captions `owner` (E,) have the n-grams `gram` (E,); 0 where they have none of it."""
    if not len(grams.owner):
        return np.zeros(len(owner), np.int64)
    keys, wanted = grams.owner * kinds + grams.gram, owner * kinds + gram
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, grams.count[places], 0)
