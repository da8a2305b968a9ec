"""METEOR: words of a caption and its reference matched one to one, equal first, then of one stem, then synonyms.

    P = matched / words of the caption    R = matched / words of the reference
    F = P R / (alpha P + (1 - alpha) R)
    METEOR = F * (1 - gamma * (chunks / matches)^beta)

chunks: runs of matches that are neighbours, in the same order, in both. Of all alignments with the most matches the
one with the fewest chunks counts (Lavie and Agarwal 2007). Of several references the best one. See docs/metrics.md.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .scores import References, Score, check_several, sum_score
from .tokens import Corpus, Tokenizer, read_corpus

MOST_STATES = 500  # of partial alignments that are kept; captions need a few


@dataclass(frozen=True)
class MeteorSettings:
    """alpha: how much more recall counts. beta, gamma: what chunks cost. weights: of equal words, stems, synonyms.
    free_whole: a caption that matches as one chunk with no word left over costs nothing, so that equal ones have 1."""

    alpha: float = 0.9
    beta: float = 3.0
    gamma: float = 0.5
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    free_whole: bool = False


VERSIONS = {"2007": MeteorSettings(), "1.5": MeteorSettings(0.85, 0.2, 0.6, (1.0, 0.6, 0.8), True)}


def meteor(
    predictions: Sequence[str],
    references: References,
    *,
    tokenizer: Tokenizer = "ptb",
    version: str | MeteorSettings = "2007",
    stemmer: str | Callable[[str], str] | None = "english",
    synonyms: Callable[[str], Collection[str]] | None = None,
) -> Score:
    """METEOR, 0..1. `per_item` is of each caption, `value` of sums over the corpus, as the authors' program.

    Args:
        references: a caption for each prediction, or several.
        tokenizer: see `tokens.splitter`.
        version: "2007", the numbers of the paper, as nltk; "1.5", those of the program of 2014, in which stems count
            0.6 and synonyms 0.8, without its lists of function words and paraphrases; or settings.
        stemmer: a language of snowballstemmer (the extra `eval`), a function of a word, or None for equal words only.
        synonyms: what a word may mean; two words match if they share a meaning. WordNet is not shipped: with nltk and
            its data, `lambda word: {str(meaning) for meaning in wordnet.synsets(word)}`.

    Raises:
        TypeError, ValueError: for what is no sequence of strings, unequal numbers, or an unknown setting.
        ModuleNotFoundError: snowballstemmer is not installed.
    """
    corpus = read_corpus(predictions, check_several(predictions, references), tokenizer)
    return meteor_of(corpus, version, stemmer, synonyms)


def meteor_of(
    corpus: Corpus,
    version: str | MeteorSettings = "2007",
    stemmer: str | Callable[[str], str] | None = "english",
    synonyms: Callable[[str], Collection[str]] | None = None,
) -> Score:
    """`meteor` of words."""
    if isinstance(version, str) and version not in VERSIONS:
        raise ValueError(f"version={version!r}; accepted are {', '.join(VERSIONS)} and MeteorSettings")
    settings = VERSIONS[version] if isinstance(version, str) else version
    stem = lru_cache(maxsize=None)(_stemmer(stemmer))
    meanings = None if synonyms is None else lru_cache(maxsize=None)(lambda word: frozenset(synonyms(word)))
    alignments = {}
    rows = np.empty((len(corpus.owner), 6))
    for number, (item, truth) in enumerate(zip(corpus.owner, corpus.references, strict=True)):
        told = corpus.predictions[item]
        key = (tuple(told), tuple(truth))
        if key not in alignments:
            alignments[key] = (len(told), len(truth), *_aligned(told, truth, stem, meanings))
        rows[number] = alignments[key]
    if settings.free_whole:
        whole = (rows[:, 0] == rows[:, 1]) & (rows[:, 2:5].sum(1) == rows[:, 0]) & (rows[:, 5] == 1)
        rows[whole, 5] = 0

    def of(sums: np.ndarray) -> np.ndarray:
        return _meteor(np.asarray(sums), settings)

    owner, scores = np.array(corpus.owner), of(rows)
    order = np.lexsort((-scores, owner))  # the best reference of each, the first of those that are equal
    best = order[np.searchsorted(owner[order], np.arange(len(corpus)))]
    return sum_score("meteor", rows[best], of)


def _stemmer(stemmer: str | Callable[[str], str] | None) -> Callable[[str], str]:
    if stemmer is None:
        return str
    if callable(stemmer):
        return stemmer
    import snowballstemmer

    if stemmer not in snowballstemmer.algorithms():
        languages = ", ".join(snowballstemmer.algorithms())
        raise ValueError(f"stemmer={stemmer!r}; accepted are {languages}, a function of a word, and None")
    return snowballstemmer.stemmer(stemmer).stemWord


def _meteor(sums: np.ndarray, settings: MeteorSettings) -> np.ndarray:
    """METEOR (...) of sums (..., 6): words of both, equal words, stems, synonyms, chunks."""
    told, truth, chunks = sums[..., 0], sums[..., 1], sums[..., 5]
    matches = sums[..., 2:5].sum(-1)
    weighted = sums[..., 2:5] @ np.array(settings.weights)
    precision, recall = weighted / np.maximum(told, 1), weighted / np.maximum(truth, 1)
    below = settings.alpha * precision + (1 - settings.alpha) * recall
    f = np.divide(precision * recall, below, out=np.zeros(np.shape(below)), where=below > 0)
    parts = np.divide(chunks, matches, out=np.zeros(np.shape(below)), where=matches > 0)
    return f * (1 - settings.gamma * parts**settings.beta)


def _aligned(
    told: list[str], truth: list[str], stem: Callable[[str], str], meanings: Callable[[str], frozenset] | None
) -> tuple[int, int, int, int]:
    """(equal words, stems, synonyms, chunks) of the best alignment of two captions."""
    choices = _choices(told, truth, stem, meanings)
    if meanings is None and all(len(places) == 1 and not spare for places, spare in choices if places):
        return _only_alignment([places[0] if places else None for places, _ in choices])
    # what may be left out: where each stage matches as many as it can, only words that have more partners than places
    states = {
        (0, -2): (0, 0, 0, 0, 0)
    }  # taken places, place of the word before -> -matches by stage, chunks, crossing
    for here, (places, spare) in enumerate(choices):
        grown: dict[tuple[int, int], tuple[int, int, int, int, int]] = {}
        for (taken, before), (equal, stems, others, chunks, far) in states.items():
            following = [((taken, -2), (equal, stems, others, chunks, far))] if spare or not places else []
            for place, stage in places:
                if not taken >> place & 1:
                    by_stage = (equal - (stage == 0), stems - (stage == 1), others - (stage == 2))
                    value = (*by_stage, chunks + (place != before + 1), far + abs(place - here))
                    following.append(((taken | 1 << place, place), value))
            for key, value in following:
                if key not in grown or _rank(value) < _rank(grown[key]):
                    grown[key] = value
        if len(grown) > MOST_STATES:
            grown = dict(sorted(grown.items(), key=lambda state: _rank(state[1]))[:MOST_STATES])
        states = grown
    equal, stems, others, chunks, _ = min(states.values(), key=_rank)
    return -equal, -stems, -others, chunks


def _only_alignment(matches: list[tuple[int, int] | None]) -> tuple[int, int, int, int]:
    """`_aligned` where no word has a choice: the (place, stage) of each word of the caption, None without one."""
    by_stage, chunks, before = [0, 0], 0, -2
    for match in matches:
        if match is None:
            before = -2
            continue
        place, stage = match
        by_stage[stage] += 1
        chunks += place != before + 1
        before = place
    return by_stage[0], by_stage[1], 0, chunks


def _rank(value: tuple[int, int, int, int, int]) -> tuple[int, ...]:
    """Most matches, then the most of equal words and of stems, then the fewest chunks, then the shortest way."""
    equal, stems, others, chunks, far = value
    return (equal + stems + others, equal, stems, chunks, far)


def _choices(
    told: list[str], truth: list[str], stem: Callable[[str], str], meanings: Callable[[str], frozenset] | None
) -> list[tuple[list[tuple[int, int]], bool]]:
    """For each word of the caption the (place, stage) of every word of the reference that it may match, and whether
    the best alignment may leave it out: there are fewer places than words of its stem, or synonyms."""
    by_stem: dict[str, list[int]] = {}
    for place, word in enumerate(truth):
        by_stem.setdefault(stem(word), []).append(place)
    stems = [stem(word) for word in told]
    wanted = Counter(stems)
    found = []
    for word, own_stem in zip(told, stems, strict=True):
        places = [(place, int(truth[place] != word)) for place in by_stem.get(own_stem, ())]
        if meanings is not None and (own := meanings(word)):
            known = {place for place, _ in places}
            places += [
                (n, 2) for n, other in enumerate(truth) if n not in known and not own.isdisjoint(meanings(other))
            ]
        found.append((places, meanings is not None or wanted[own_stem] > len(places)))
    return found
