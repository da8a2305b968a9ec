"""Retrieval of pictures and texts both ways, by blocks of their similarities. B pictures, R texts, D numbers each.

    retrieval_scores(images, texts, picture_of_text)["t2i_r1"].value

The matrix (B, R) is never held: a block of pictures is compared with all texts, and what stands above each right pair
is counted in it, both ways. Counts are exact integers, so the size of a block changes no metric.
"""

from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import numpy as np

from .ranking import TIES, RightPairs, ranking_metrics
from .scores import Score, mean_score, median_score

WAYS = ("i2t", "t2i")
ROWS = 128  # pictures in a block; at most 255, for counts of a block are bytes
ROUNDING = 16  # units in the last place; two orders of one sum differ by less
Owners = Sequence[int] | Sequence[Sequence[int]] | np.ndarray
Blocks = Callable[[int, int], np.ndarray]  # similarities (end - start, R) of pictures start .. end


def retrieval_scores(
    images: np.ndarray,
    texts: np.ndarray,
    picture_of_text: Owners,
    *,
    ks: Sequence[int] = (1, 5, 10),
    ties: str = "average",
    per: str = "caption",
    ndcg_cut: int | None = None,
    ways: Sequence[str] = WAYS,
) -> dict[str, Score]:
    """Every metric of retrieval: {"i2t_r1": Score, ..., "i2t_medr", "i2t_map", "i2t_ndcg", "i2t_rprecision", ...}.

    i2t: a picture looks for its texts, t2i: a text looks for its pictures. r{k}: one of the first k is right; p{k}:
    the share of the first k that is right; medr: the median rank of the first right one; map: mean average precision;
    ndcg: of the whole list; rprecision: the share of right ones among as many as are right. What has nothing right is
    only a candidate, and its `per_item` is nan.

    Args:
        images, texts: (B, D) and (R, D), compared by their dot product: normalise them for the cosine.
        picture_of_text: for each text the number of its picture, or a list of several (or none).
        ties: "average", the mean over all orders of what is tied, or "worst", wrong ones first. Similarities closer
            than rounding could make them (16 units in the last place: 2e-6 for float32 and unit vectors) are tied.
        per: t2i weighs each "caption" alike, or each "picture": the mean over its captions counts once.
        ndcg_cut: nDCG of the first so many; None: of all.
        ways: "i2t", "t2i" or both.

    Raises: ValueError for other shapes, for nan and infinity, and for numbers of no picture.
    """
    images, texts = _checked("images", images), _checked("texts", texts)
    if images.shape[1] != texts.shape[1]:
        raise ValueError(f"images {images.shape} and texts {texts.shape} must have vectors of one size")
    dtype = np.result_type(images, texts, np.float32)
    images, texts = images.astype(dtype, copy=False), texts.astype(dtype, copy=False)
    lengths = [np.sqrt(np.einsum("nd,nd->n", side, side, dtype=np.float64)) for side in (images, texts)]
    if lengths[0].max() * lengths[1].max() > np.finfo(dtype).max:
        raise ValueError(f"similarities of these vectors are larger than {dtype} can hold; normalise them")
    picture, text = _right_pairs(picture_of_text, len(images), len(texts))
    similar = np.concatenate(
        [np.einsum("nd,nd->n", images[picture[at : at + 4096]], texts[text[at : at + 4096]])
         for at in range(0, len(text), 4096)]
    )  # fmt: skip
    near = ROUNDING * np.finfo(dtype).eps * lengths[0][picture] * lengths[1][text]
    turned = texts.T

    def block(start: int, end: int) -> np.ndarray:
        return images[start:end] @ turned

    size = len(images), len(texts)
    return _scores(block, size, picture, text, similar, near.astype(dtype), ks, ties, per, ndcg_cut, ways)


def similarity_scores(
    similarity: np.ndarray,
    picture_of_text: Owners,
    *,
    ks: Sequence[int] = (1, 5, 10),
    ties: str = "average",
    per: str = "caption",
    ndcg_cut: int | None = None,
    ways: Sequence[str] = WAYS,
) -> dict[str, Score]:
    """`retrieval_scores` of ready similarities (B, R), such as those of a reranker; equal ones tie."""
    held = _checked("similarity", similarity)
    picture, text = _right_pairs(picture_of_text, *held.shape)
    similar = held[picture, text]

    def block(start: int, end: int) -> np.ndarray:
        return held[start:end]

    shape = len(held), held.shape[1]
    return _scores(block, shape, picture, text, similar, np.zeros_like(similar), ks, ties, per, ndcg_cut, ways)


def most_similar_texts(images: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B,) the number of the text that is most similar to each picture, and (B,) how similar it is."""
    turned, numbers, values = np.asarray(texts).T, [], []
    for start in range(0, len(images), ROWS):
        similar = images[start : start + ROWS] @ turned
        numbers.append(similar.argmax(1))
        values.append(similar.max(1))
    return np.concatenate(numbers), np.concatenate(values)


def _scores(
    block: Blocks,
    size: tuple[int, int],
    picture: np.ndarray,
    text: np.ndarray,
    similar: np.ndarray,
    near: np.ndarray,
    ks: Sequence[int],
    ties: str,
    per: str,
    ndcg_cut: int | None,
    ways: Sequence[str],
) -> dict[str, Score]:
    wanted = [*(ks if isinstance(ks, Sequence) else [ks]), *([] if ndcg_cut is None else [ndcg_cut])]
    if not isinstance(ks, Sequence) or not ks or not all(map(_is_count, wanted)):
        raise ValueError(f"ks={ks!r}, ndcg_cut={ndcg_cut!r}; accepted are whole numbers from 1, several in ks")
    for name, value, accepted in (("ties", ties, TIES), ("per", per, ("caption", "picture"))):
        if value not in accepted:
            raise ValueError(f"{name}={value!r}; accepted are {', '.join(accepted)}")
    if not isinstance(ways, (list, tuple)) or not ways or not set(ways) <= set(WAYS):
        raise ValueError(f"ways={ways!r}; accepted is a list of {', '.join(WAYS)}")
    counted = _counts(block, size, picture, text, similar - near, similar + near, ways)
    found: dict[str, Score] = {}
    for way in ways:
        query, queries, candidates = (picture, *size) if way == "i2t" else (text, size[1], size[0])
        pairs = _sorted_pairs(query, similar, near, *counted[way], queries, candidates)
        values = ranking_metrics(pairs, ks, ties, ndcg_cut)
        if way == "t2i" and per == "picture":
            values = {name: _mean_of_pictures(value, picture, text, size[0]) for name, value in values.items()}
        for name, value in values.items():
            of = median_score(f"{way}_medr", value) if name == "rank" else mean_score(f"{way}_{name}", value)
            found[of.name] = of
    return found


# ---- what stands above each right pair ------------------------------------------------------------------------------


def _counts(
    block: Blocks,
    size: tuple[int, int],
    picture: np.ndarray,
    text: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    ways: Sequence[str],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each way, of each right pair: how many candidates are at `low` or above, and how many above `high`."""
    found = {way: (np.zeros(len(text), np.int64), np.zeros(len(text), np.int64)) for way in ways}
    rounds = list(_one_pair_a_text(text)) if "t2i" in ways else []
    starts = np.searchsorted(picture, np.arange(size[0] + 1))  # pairs are sorted by picture
    mask = np.empty(size[1], bool)
    for start in range(0, size[0], ROWS):
        similarities = block(start, min(start + ROWS, size[0]))
        if "i2t" in ways:
            at_least, above = found["i2t"]
            for row, own in enumerate(similarities, start):
                for pair in range(starts[row], starts[row + 1]):
                    at_least[pair] = np.count_nonzero(np.greater_equal(own, low[pair], out=mask))
                    if at_least[pair] > 1:
                        above[pair] = np.count_nonzero(np.greater(own, high[pair], out=mask))
        for pairs in rounds:
            columns = text[pairs]
            some = similarities if len(columns) == size[1] else similarities[:, columns]
            for counts, hits in zip(found["t2i"], (some >= low[pairs], some > high[pairs]), strict=True):
                counts[pairs] += hits.view(np.uint8).sum(0, dtype=np.uint8)
    return found


def _one_pair_a_text(text: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the pairs in rounds that hold each text once, and in their order."""
    order = np.argsort(text, kind="stable")
    turn = np.arange(len(text)) - np.searchsorted(text[order], text[order])
    for number in range(turn.max(initial=-1) + 1):
        yield order[turn == number]


def _sorted_pairs(
    query: np.ndarray,
    similar: np.ndarray,
    near: np.ndarray,
    at_least: np.ndarray,
    above: np.ndarray,
    queries: int,
    candidates: int,
) -> RightPairs:
    order = np.lexsort((-similar, query))
    query, similar, near, at_least, above = (one[order] for one in (query, similar, near, at_least, above))
    right_above, right_tied = np.zeros(len(query), np.int64), np.ones(len(query), np.int64)
    for start, end in zip(*_runs(query), strict=True):
        if end - start > 1:
            own = similar[start:end]
            right_above[start:end] = (own > (own + near[start:end])[:, None]).sum(1)
            right_tied[start:end] = (own >= (own - near[start:end])[:, None]).sum(1) - right_above[start:end]
    above = np.maximum(above, right_above)  # what rounding puts on the edge of a tie
    tied = np.maximum(at_least - above, right_tied)
    return RightPairs(query, np.minimum(above, candidates - tied), tied, right_above, right_tied, queries, candidates)


def _runs(query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    starts = np.unique(query, return_index=True)[1]
    return starts, np.append(starts[1:], len(query))


def _mean_of_pictures(values: np.ndarray, picture: np.ndarray, text: np.ndarray, count: int) -> np.ndarray:
    """(B,) the mean over the captions of each picture, nan where it has none."""
    captions = np.bincount(picture, minlength=count)
    sums = np.bincount(picture, weights=values[text], minlength=count)
    return np.where(captions > 0, sums / np.maximum(captions, 1), np.nan)


# ---- what is given --------------------------------------------------------------------------------------------------


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _checked(name: str, given: np.ndarray) -> np.ndarray:
    held = np.asarray(given)
    if held.dtype.kind not in "fiub":
        raise TypeError(f"{name} is of {held.dtype}; give a matrix of real numbers")
    wide = np.float64 if held.dtype.kind in "iu" and held.dtype.itemsize > 2 else np.float32  # that holds them exactly
    held = held if held.dtype.kind == "f" and held.dtype.itemsize >= 4 else held.astype(wide)
    if held.ndim != 2 or not held.size or not np.isfinite(held).all():
        raise ValueError(
            f"{name} has shape {held.shape}; give a matrix of finite numbers, of at least one picture and one text"
        )
    return held


def _right_pairs(picture_of_text: Owners, pictures: int, texts: int) -> tuple[np.ndarray, np.ndarray]:
    """(P,), (P,): picture and text of each right pair, sorted by picture and then by text."""
    if not isinstance(picture_of_text, (Sequence, np.ndarray)) or isinstance(picture_of_text, str):
        raise TypeError(f"picture_of_text is {picture_of_text!r:.60}; give the number of a picture for each text")
    given = list(picture_of_text)
    if len(given) != texts:
        raise ValueError(f"picture_of_text is of {len(given)} texts, and there are {texts}; give one entry for each")
    lists = [list(one) if isinstance(one, (list, tuple, set, np.ndarray)) else [one] for one in given]
    text = np.repeat(np.arange(texts), [len(one) for one in lists])
    picture = np.array([number for one in lists for number in one])
    if not len(picture):
        raise ValueError("picture_of_text names no picture; give at least one text its picture")
    if picture.dtype.kind not in "iu" or picture.min() < 0 or picture.max() >= pictures:
        got = f"{picture.min()}..{picture.max()}" if picture.dtype.kind in "iuf" else f"{picture.tolist()!r:.60}"
        raise ValueError(f"picture_of_text holds whole numbers from 0 to {pictures - 1}; got {got}")
    both = np.unique(np.stack([picture, text]), axis=1)
    return both[0], both[1]
