"""Two models on the same items: the interval of the difference, the paired test, and what a table may not say."""

import warnings

import numpy as np
import pytest

from mm.evaluation.bleu import bleu
from mm.evaluation.captions import exact_match
from mm.evaluation.scores import mean_score
from mm.evaluation.significance import compare, comparison_table, undecided_warnings
from mm.evaluation.speech import wer

rng = np.random.default_rng(0)
BASE = rng.random(200)


def test_a_small_steady_difference_is_decided_because_items_are_paired():
    found = compare(mean_score("m", BASE + 0.01 + 0.001 * rng.random(200)), mean_score("m", BASE))
    assert found.verdict == "better" and found.p_value < 0.01 and found.low < found.difference < found.high
    assert compare(mean_score("m", BASE), mean_score("m", BASE + 0.01)).verdict == "worse"


def test_chance_decides_nothing_in_nineteen_of_twenty_cases():
    found = [
        compare(mean_score("m", rng.random(60)), mean_score("m", rng.random(60)), resamples=200) for _ in range(60)
    ]
    assert sum(one.verdict != "undecided" for one in found) <= 9  # 3 are expected
    assert 0.3 < np.mean([one.p_value for one in found]) < 0.7  # even between 0 and 1


def test_one_model_with_itself_and_one_picture():
    score = mean_score("m", BASE)
    found = compare(score, score)
    assert (found.difference, found.low, found.high, found.p_value, found.verdict) == (0, 0, 0, 1, "undecided")
    alone = compare(score, mean_score("m", BASE / 2), groups=["one"] * 200)
    assert alone.groups == 1 and np.isnan(alone.p_value) and alone.verdict == "undecided"


def test_rows_of_a_picture_are_drawn_together():
    ours, theirs = BASE + 0.05 * rng.standard_normal(200), BASE
    rows = compare(mean_score("m", np.repeat(ours, 5)), mean_score("m", np.repeat(theirs, 5)))
    pictures = compare(
        mean_score("m", np.repeat(ours, 5)), mean_score("m", np.repeat(theirs, 5)), np.repeat(np.arange(200), 5)
    )
    assert pictures.high - pictures.low > 1.8 * (rows.high - rows.low) and pictures.groups == 200


def test_metrics_of_sums_are_compared_as_such_and_lower_may_be_better():
    truth = ["a red dog runs", "two black cats sit", "the man walks home", "a boat on the water"] * 5
    worse = [text.replace("a ", "the ").replace("two", "some") for text in truth]
    assert compare(bleu(truth, truth), bleu(worse, truth)).verdict == "better"
    found = compare(wer(worse, truth), wer(truth, truth))
    assert found.difference > 0 and found.verdict == "worse"


def test_a_table_says_undecided_and_warns_of_what_reads_as_better():
    noise = rng.standard_normal(40)
    close = compare(mean_score("close", noise), mean_score("close", noise[::-1] * 0.9))
    clear = compare(mean_score("clear", BASE + 1), mean_score("clear", BASE))
    assert len(undecided_warnings([close, clear])) == 1
    with pytest.warns(UserWarning, match="close.*contains 0"):
        lines = comparison_table([close, clear]).splitlines()
    assert lines[1].endswith("undecided") and lines[2].endswith("better") and max(map(len, lines)) <= 80
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparison_table([clear])


def test_other_items_and_other_metrics_are_refused():
    with pytest.raises(ValueError, match="a of 2 items and a of 3"):
        compare(mean_score("a", [0, 1]), mean_score("a", [0, 1, 1]))
    with pytest.raises(ValueError, match="exact_match of 1 items and b"):
        compare(exact_match(["a"], ["a"]), mean_score("b", [1]))
    with pytest.raises(ValueError, match="1 groups for 2 items"):
        compare(mean_score("a", [0, 1]), mean_score("a", [0, 1]), groups=["x"])
    with pytest.raises(ValueError, match="confidence=2"):
        compare(mean_score("a", [0, 1]), mean_score("a", [0, 1]), confidence=2)
