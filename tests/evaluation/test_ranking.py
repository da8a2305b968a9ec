"""Retrieval both ways: by hand, by a slow count over orders, and what holds for every one of its metrics."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm.evaluation import retrieval
from mm.evaluation.retrieval import retrieval_scores, similarity_scores

# three pictures, four texts: 0 and 1 belong to picture 0, 2 to picture 1, 3 to picture 2
OWNER = [0, 0, 1, 2]
SCORES = np.array([[0.9, 0.1, 0.8, 0.2], [0.3, 0.7, 0.6, 0.5], [0.2, 0.4, 0.1, 0.0]])
few = settings(max_examples=25, deadline=None)


def items(name: str, similarity=SCORES, owner=OWNER, **options) -> list[float]:
    return similarity_scores(np.asarray(similarity), owner, **{"ks": (1, 2, 4), **options})[name].per_item.tolist()


def test_a_picture_is_right_by_any_of_its_texts():
    assert items("i2t_r1") == [1, 0, 0]  # picture 1 takes text 1, picture 2 text 1
    assert items("i2t_r2") == [1, 1, 0]
    assert items("i2t_r4") == [1, 1, 1]
    assert items("i2t_medr") == [1, 2, 4]


def test_a_text_is_right_by_its_own_picture():
    assert items("t2i_r1") == [1, 0, 0, 0]
    assert items("t2i_r2") == [1, 0, 1, 0]
    assert items("t2i_medr") == [1, 3, 2, 3]


def test_precision_and_ndcg_read_the_whole_list():
    # of picture 0 the texts 0 and 1 are right, at ranks 1 and 4
    assert items("i2t_map")[0] == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert items("i2t_ndcg")[0] == pytest.approx((1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3)))
    assert items("i2t_ndcg", ndcg_cut=2)[0] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert items("i2t_rprecision") == [0.5, 0, 0]
    assert items("i2t_p2") == [0.5, 0.5, 0]


def test_captions_or_pictures_weigh_alike():
    assert similarity_scores(SCORES, OWNER)["t2i_r1"].value == pytest.approx(1 / 4)
    by_picture = similarity_scores(SCORES, OWNER, per="picture")["t2i_r1"]
    assert by_picture.per_item.tolist() == [0.5, 0, 0] and by_picture.value == pytest.approx(0.5 / 3)


def test_a_caption_may_have_several_pictures_or_none():
    owners = [[0, 1], [], [1], [2, 0]]
    assert items("t2i_map", owner=owners)[0] == pytest.approx(1.0)
    assert np.isnan(items("t2i_map", owner=owners)[1])
    assert items("i2t_rprecision", owner=owners)[0] == pytest.approx(0.5)  # texts 0 and 3, at ranks 1 and 3


def slow(scores: np.ndarray, right: np.ndarray, k: int, worst: bool) -> dict[str, float]:
    """Every metric of one list, as the mean over (or the worst of) all orders that sort it."""
    found: dict[str, list[float]] = {}
    for order in permutations(range(len(scores))):
        if any(scores[a] < scores[b] for a, b in zip(order, order[1:], strict=False)):
            continue
        hits = right[list(order)]
        ranks = np.flatnonzero(hits) + 1
        if worst and any(scores[a] == scores[b] and right[a] > right[b] for a, b in zip(order, order[1:])):  # noqa: B905
            continue
        ideal = (1 / np.log2(np.arange(len(ranks)) + 2)).sum()
        one = {
            f"r{k}": float(ranks[0] <= k), f"p{k}": (ranks <= k).sum() / k, "medr": ranks[0],
            "map": (np.arange(1, len(ranks) + 1) / ranks).mean(), "ndcg": (1 / np.log2(ranks + 1)).sum() / ideal,
            "rprecision": (ranks <= len(ranks)).mean(),
        }  # fmt: skip
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("ties", ["average", "worst"])
@few
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=2, max_size=6), st.integers(1, 4))
def test_ties_are_the_mean_over_all_orders_or_the_worst(ties, candidates, k):
    scores, right = (np.array(one) for one in zip(*candidates, strict=True))
    right[0] = True
    expected = slow(scores, right, k, ties == "worst")
    owner = [[0] if one else [] for one in right]
    found = similarity_scores(scores[None].astype(float), owner, ks=(k,), ties=ties, ways=("i2t",))
    assert {name.removeprefix("i2t_"): score.value for name, score in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("ties", ["average", "worst"])
def test_a_collapsed_model_has_the_recall_of_guessing_or_none(ties):
    one = np.random.default_rng(0).normal(size=(1, 33)).astype(np.float32)
    found = retrieval_scores(one.repeat(300, 0), one.repeat(300, 0), range(300), ties=ties)
    guess = (
        {"r1": 1 / 300, "r5": 5 / 300, "r10": 10 / 300, "medr": 150.5} if ties == "average" else {"r1": 0, "medr": 300}
    )
    for name, value in guess.items():
        assert found[f"i2t_{name}"].value == pytest.approx(value) == found[f"t2i_{name}"].value


def test_the_size_of_a_block_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(70, 16)).astype(np.float32), rng.normal(size=(90, 16)).astype(np.float32)
    images[40:50] = images[3]  # pictures that are equal
    owner = [[number % 70, (7 * number) % 70] for number in range(90)]
    whole = retrieval_scores(images, texts, owner)
    monkeypatch.setattr(retrieval, "ROWS", 9)
    blocks = retrieval_scores(images, texts, owner)
    similarity = images.astype(np.float64) @ texts.T.astype(np.float64)
    for name, score in similarity_scores(similarity, owner).items():
        np.testing.assert_array_equal(blocks[name].per_item, whole[name].per_item)
        np.testing.assert_allclose(score.per_item, whole[name].per_item)


def test_without_ties_it_is_sorting():
    rng = np.random.default_rng(0)
    scores, owner = rng.random((30, 90)), np.repeat(np.arange(30), 3)
    order, back = (-scores).argsort(1), (-scores).argsort(0)
    found = similarity_scores(scores, owner)
    assert found["i2t_r5"].per_item.tolist() == [float(row in owner[order[row, :5]]) for row in range(30)]
    assert found["t2i_r5"].per_item.tolist() == [float(owner[text] in back[:5, text]) for text in range(90)]


@st.composite
def cases(draw):
    pictures, texts = draw(st.integers(2, 6)), draw(st.integers(2, 8))
    levels = st.lists(st.integers(0, 3), min_size=texts, max_size=texts)
    owners = st.lists(st.integers(0, pictures - 1), min_size=1, max_size=2)
    return (
        np.array(draw(st.lists(levels, min_size=pictures, max_size=pictures)), float),
        draw(st.lists(owners, min_size=texts, max_size=texts)),
    )


@few
@given(cases(), st.randoms(use_true_random=False), st.sampled_from(["average", "worst"]))
def test_the_order_of_texts_does_not_count_and_all_have_bounds(case, random, ties):
    similarity, owner = case
    places = list(range(len(owner)))
    random.shuffle(places)
    found = similarity_scores(similarity, owner, ties=ties)
    moved = similarity_scores(similarity[:, places], [owner[place] for place in places], ties=ties)
    for name, score in found.items():
        assert moved[name].value == pytest.approx(score.value)
        assert score.of(score.statistics.sum(0)) == pytest.approx(score.value)
        known = score.per_item[~np.isnan(score.per_item)]
        least, most = (1, max(similarity.shape)) if name.endswith("medr") else (0, 1 + 1e-12)
        assert ((known >= least) & (known <= most)).all()
    for way in ("i2t", "t2i"):
        assert found[f"{way}_r1"].value <= found[f"{way}_r5"].value + 1e-12


@few
@given(cases(), st.sampled_from(["average", "worst"]))
def test_a_right_pair_that_gets_more_similar_makes_nothing_worse(case, ties):
    similarity, owner = case
    better = similarity.copy()
    better[owner[0][0], 0] += 1.5
    before, after = (similarity_scores(one, owner, ties=ties) for one in (similarity, better))
    row, column = owner[0][0], 0
    for name in before:
        place = row if name.startswith("i2t") else column
        change = after[name].per_item[place] - before[name].per_item[place]
        assert (-change if name.endswith("medr") else change) >= -1e-12


@few
@given(cases(), st.sampled_from(["average", "worst"]))
def test_another_right_pair_never_makes_the_first_one_come_later(case, ties):
    similarity, owner = case
    more = [[*owner[0], (owner[0][0] + 1) % len(similarity)], *owner[1:]]
    before, after = (similarity_scores(similarity, one, ties=ties) for one in (owner, more))
    for way in ("i2t", "t2i"):
        for name, sign in ((f"{way}_r1", 1), (f"{way}_r5", 1), (f"{way}_medr", -1)):
            old, new = before[name].per_item, after[name].per_item
            assert (sign * (new - old)[~np.isnan(old)] >= -1e-12).all()


@few
@given(cases())
def test_every_query_twice_has_the_same_metrics(case):
    similarity, owner = case
    found = similarity_scores(similarity, owner, ways=("t2i",))
    twice = similarity_scores(np.concatenate([similarity, similarity], 1), owner * 2, ways=("t2i",))
    for name, score in found.items():
        assert twice[name].value == pytest.approx(score.value)


def test_a_median_has_an_interval_and_many_ranks_stay_exact():
    ranks = np.random.default_rng(0).permutation(1001).astype(float)
    score = retrieval.median_score("medr", ranks)
    assert score.value == 500 == score.of(score.statistics.sum(0)) and score.statistics.shape[1] <= 64
    value, low, high = score.interval()
    assert 400 < low < value < high < 600


def test_wrong_shapes_numbers_and_settings_raise():
    ones = np.ones((2, 3))
    for images, texts, owner, words in (
        (ones, np.ones((2, 4)), [0, 1], "one size"),
        (ones, ones, [0], "of 1 texts"),
        (ones, ones, [0, 2], "from 0 to 1"),
        (ones, ones, [[], []], "no picture"),
        (np.full((2, 3), np.nan), ones, [0, 1], "images has shape.*finite"),
        (ones, np.full((2, 3), np.inf), [0, 1], "texts has shape.*finite"),
        (np.float32(1e30) * ones.astype(np.float32), np.float32(1e30) * ones.astype(np.float32), [0, 1], "normalise"),
    ):
        with pytest.raises(ValueError, match=words):
            retrieval_scores(images, texts, owner)
    for option in ({"ks": (0,)}, {"ties": "best"}, {"per": "row"}, {"ways": ("x",)}, {"ndcg_cut": 0}):
        with pytest.raises(ValueError, match=next(iter(option))):
            similarity_scores(ones, [0, 1, 1], **option)
