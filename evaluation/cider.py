"""CIDEr-D and CIDEr: how alike captions are in the n-grams that are rare among the references of all pictures.

    CIDEr-D_n = mean over references of  exp(-(l_c - l_r)^2 / (2 sigma^2)) * (min(g_c, g_r) . g_r) / (|g_c| |g_r|)
    CIDEr_n   = mean over references of  (g_c . g_r) / (|g_c| |g_r|)

g: counts of n-grams times log(pictures / pictures whose references have the n-gram), l: length, in bigrams. The score
is 10 times the mean over n = 1, 2, 3, 4 (Vedantam et al. 2015). See docs/metrics.md.
"""

from collections.abc import Sequence

import numpy as np

from .ngrams import Grams, Table, count_ngrams, counts_of
from .scores import References, Score, check_several, mean_score
from .tokens import Corpus, Tokenizer, read_corpus

LONGEST = 4


def cider_d(
    predictions: Sequence[str],
    references: References,
    *,
    tokenizer: Tokenizer = "ptb",
    corpus: Sequence[Sequence[str]] | None = None,
    sigma: float = 6.0,
) -> Score:
    """CIDEr-D, 0..10: what pycocoevalcap and papers call CIDEr. `per_item` is of each picture, `value` their mean.

    Args:
        references: a caption for each prediction, or several.
        tokenizer: see `tokens.splitter`.
        corpus: the references of each picture of a set that says which n-grams are rare; None: `references`. Give one
            where there are few pictures, and to score pictures one by one.
        sigma: how much a difference of lengths costs.

    An interval draws pictures and leaves what is rare as it is in the whole corpus.

    Raises:
        TypeError, ValueError: for what is no sequence of strings, or unequal numbers; for fewer than two pictures,
            where every n-gram is in all of them and any caption would have 0 (corpus=references gives that 0).
    """
    return _score("cider_d", predictions, references, tokenizer, corpus, sigma)


def cider(
    predictions: Sequence[str],
    references: References,
    *,
    tokenizer: Tokenizer = "ptb",
    corpus: Sequence[Sequence[str]] | None = None,
) -> Score:
    """CIDEr, 0..10, without the changes of CIDEr-D: repeated words pay, and lengths are not compared. Words are not
    stemmed: pass a tokenizer that does. Arguments as for `cider_d`."""
    return _score("cider", predictions, references, tokenizer, corpus, None)


def _score(name: str, predictions, references, tokenizer: Tokenizer, corpus, sigma: float | None) -> Score:
    several = check_several(predictions, references)
    rare = None if corpus is None else _references(corpus, tokenizer)
    return cider_of(read_corpus(predictions, several, tokenizer), name, sigma, rare)


def cider_of(
    corpus: Corpus,
    name: str = "cider_d",
    sigma: float | None = 6.0,
    rare: Corpus | None = None,
    tables: list[Table] | None = None,
) -> Score:
    """`cider_d` of words, or `cider` with sigma None. tables: of `count_ngrams`, where they are there."""
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma={sigma}; accepted are numbers above 0")
    if rare is None and len(corpus) < 2:
        raise ValueError(
            f"{name} of one picture: every n-gram is in all pictures, nothing is rare; give corpus=, the references "
            "of a larger set (corpus=references gives the 0 that pycocoevalcap returns)"
        )
    owner = np.array(corpus.owner, np.int64)
    told = np.array([max(len(words) - 1, 0) for words in corpus.predictions])
    truth = np.array([max(len(words) - 1, 0) for words in corpus.references])
    alike = np.zeros(len(owner))
    if rare is None:
        for table in (tables or count_ngrams(corpus, LONGEST))[:LONGEST]:
            alike += _alike(table, _weights(table, owner, len(corpus)), owner, sigma is not None)
    else:
        alike = _alike_by_others(corpus, rare, owner, sigma is not None)
    if sigma is not None:
        alike *= np.exp(-((told[owner] - truth) ** 2) / (2 * sigma**2))
    return mean_score(name, 10 / LONGEST * np.bincount(owner, alike) / np.bincount(owner), best=10.0)


def _references(corpus: Sequence[Sequence[str]], tokenizer: Tokenizer) -> Corpus:
    nothing = [""] * len(corpus)
    return read_corpus(nothing, check_several(nothing, corpus), tokenizer)


def _weights(table: Table, owner: np.ndarray, pictures: int) -> np.ndarray:
    """(kinds,): log of all pictures over those whose references have the n-gram, at least one."""
    there = np.unique(owner[table.references.owner] * table.kinds + table.references.gram) % table.kinds
    return np.log(pictures) - np.log(np.maximum(np.bincount(there, minlength=table.kinds), 1))


def _alike(table: Table, weights: np.ndarray, owner: np.ndarray, clipped: bool) -> np.ndarray:
    """(R,): the cosine of each reference and its prediction, of n-grams of one length."""
    told, truth = table.predictions, table.references
    lengths = _lengths(told, weights, owner.max() + 1)[owner] * _lengths(truth, weights, len(owner))
    here = weights[truth.gram] * truth.count
    there = weights[truth.gram] * counts_of(told, owner[truth.owner], truth.gram, table.kinds)
    products = np.bincount(truth.owner, (np.minimum(there, here) if clipped else there) * here, len(owner))
    return np.divide(products, lengths, out=np.zeros(len(owner)), where=lengths > 0)


def _lengths(grams: Grams, weights: np.ndarray, captions: int) -> np.ndarray:
    return np.sqrt(np.bincount(grams.owner, (weights[grams.gram] * grams.count) ** 2, captions))


def _alike_by_others(corpus: Corpus, rare: Corpus, owner: np.ndarray, clipped: bool) -> np.ndarray:
    """(R,): the sum over n of `_alike`, with the weights of another set: its references are counted along."""
    both = Corpus(corpus.predictions, corpus.references + rare.references, corpus.owner + rare.owner)
    others = np.array(rare.owner, np.int64)
    alike = np.zeros(len(owner))
    for table in count_ngrams(both, LONGEST):
        grams = table.references
        ours = grams.owner < len(owner)
        mine = Grams(grams.owner[ours], grams.gram[ours], grams.count[ours])
        theirs = Grams(grams.owner[~ours] - len(owner), grams.gram[~ours], grams.count[~ours])
        weights = _weights(Table(table.predictions, theirs, table.kinds), others, len(rare))
        alike += _alike(Table(table.predictions, mine, table.kinds), weights, owner, clipped)
    return alike
