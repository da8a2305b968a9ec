"""A metric in groups: means by hand, what is judged, and a test that seldom calls equal groups unequal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm.evaluation.bleu import bleu
from mm.evaluation.groups import group_scores
from mm.evaluation.scores import mean_score
from mm.evaluation.speech import wer


def test_groups_have_their_own_mean_the_worst_first():
    score = mean_score("accuracy", [1, 1, 0, 1, np.nan, 0])
    found = group_scores(score, ["a", "a", "b", "b", "b", "c"], ["p", "p", "q", "r", "s", "t"])
    assert [(one.name, one.value, one.items, one.pictures) for one in found.groups] == [
        ("c", 0, 1, 1), ("b", 0.5, 2, 2), ("a", 1, 2, 1)
    ]  # fmt: skip
    assert all(one.is_small for one in found.groups) and found.gap is None and "10 pictures" in found.why_no_gap
    assert np.isnan(found.groups[0].low) and found.groups[1].low == 0


@pytest.mark.parametrize("higher", [True, False])
def test_a_group_that_is_much_worse_is_worse(higher):
    right = np.array([1] * 30 + [0] * 25 + [1] * 5 + [0] * 3, float)
    names = ["day"] * 30 + ["night"] * 30 + ["fog"] * 3
    score = mean_score("metric", right if higher else 1 - right, higher_is_better=higher)
    found = group_scores(score, names)
    assert found.groups[0].name == "fog" and found.groups[0].is_small  # the lowest, and not judged
    gap = found.gap
    assert gap.worst == "night" and gap.value == pytest.approx(30 / 33 - 5 / 30) and gap.verdict == "worse"
    assert 0 < gap.low < gap.value < gap.high and gap.p_value < 0.01


def test_the_worst_of_equal_groups_is_undecided_nearly_always():
    """Of 60 draws of six equal groups 5 % are called worse by chance; picking the worst without counting that it was
    picked would call about a fourth of them worse."""
    rng = np.random.default_rng(0)
    names = np.repeat(list("abcdef"), 20).tolist()
    verdicts = [
        group_scores(mean_score("m", rng.random(120) < 0.7), names, resamples=200).gap.verdict for _ in range(60)
    ]
    assert verdicts.count("worse") <= 6


def test_items_of_a_picture_are_one_observation():
    right = np.repeat(np.random.default_rng(0).random(24) < 0.5, 50).astype(float)
    names = np.repeat(["a", "b"] * 12, 50).tolist()
    alone = group_scores(mean_score("m", right), names)
    together = group_scores(mean_score("m", right), names, np.repeat(np.arange(24), 50).tolist())
    assert alone.gap.value == together.gap.value and alone.groups[0].items == 600
    assert together.gap.high - together.gap.low > 4 * (alone.gap.high - alone.gap.low)
    assert together.gap.p_value > alone.gap.p_value


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from("ab")), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_order_does_not_count_and_intervals_hold_the_value(rows, random):
    values, names = zip(*rows, strict=True)
    found = group_scores(mean_score("m", values), names, resamples=50)
    places = list(range(len(rows)))
    random.shuffle(places)
    moved = group_scores(mean_score("m", [values[n] for n in places]), [names[n] for n in places], resamples=50)
    told = [[(one.name, one.value, one.items) for one in scores.groups] for scores in (found, moved)]
    assert told[0] == told[1] and (found.gap is None) == (moved.gap is None)
    if found.gap is not None:
        assert found.gap.value == pytest.approx(moved.gap.value) and 0 < found.gap.p_value <= 1
    for one in found.groups:
        assert np.isnan(one.low) or 0 <= one.low <= one.high <= 1


@pytest.mark.parametrize("worst", ["short", "long"])
def test_a_group_s_error_rate_is_all_its_errors_over_all_its_words(worst):
    """Sentences of one word and of nine count by their words; an inserted word counts where there was none to say."""
    truth = ["one"] * 20 + ["a b c d e f g h i"] * 20 + [""]
    names = ["short"] * 20 + ["long"] * 20 + ["silent"]
    told = [text.replace("one" if worst == "short" else "a b c d", "x") for text in truth]
    score = wer([*told[:-1], "heard"], truth)
    found = group_scores(score, names)
    values = {one.name: one.value for one in found.groups}
    assert values["short"] == (worst == "short") and values["long"] == pytest.approx(4 / 9 * (worst == "long"))
    assert np.isnan(values["silent"]) and not found.higher_is_better
    others = (values["long" if worst == "short" else "short"] * (180 if worst == "short" else 20) + 1) / (
        180 if worst == "short" else 20
    )
    assert found.gap.worst == worst and found.gap.verdict == "worse"
    assert found.gap.value == pytest.approx(values[worst] - others)


def test_other_metrics_and_lengths_raise():
    with pytest.raises(ValueError, match="no mean"):
        group_scores(bleu(["a b"], ["a b"]), ["x"])
    with pytest.raises(ValueError, match="one for each"):
        group_scores(mean_score("m", [1, 0]), ["x"])
    with pytest.raises(ValueError, match="no value"):
        group_scores(mean_score("m", [np.nan]), ["x"])
    assert "one group" in group_scores(mean_score("m", [1.0] * 30), ["x"] * 30).why_no_gap
