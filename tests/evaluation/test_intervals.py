"""Bootstrap intervals that draw whole pictures."""

import numpy as np
import pytest

from mm.evaluation.captions import bootstrap_interval
from mm.evaluation.intervals import by_group, grouped_interval, mean_interval


def test_rows_of_a_group_are_summed_in_the_order_of_the_groups():
    sums = by_group(np.array([[1.0, 1], [2, 1], [4, 1]]), ["b", "a", "b"])
    assert sums.tolist() == [[5, 2], [2, 1]]


def test_the_value_is_the_mean_over_rows_and_lies_within():
    scores = np.random.default_rng(0).random(60)
    value, low, high = mean_interval(scores, np.arange(60) // 3)
    assert value == pytest.approx(scores.mean()) and low < value < high


def test_the_interval_is_the_same_for_the_same_seed():
    scores = np.random.default_rng(0).random(60)
    assert mean_interval(scores, range(60)) == mean_interval(scores, range(60))
    assert mean_interval(scores, range(60)) != mean_interval(scores, range(60), seed=1)


def test_groups_of_one_row_give_the_interval_of_rows():
    scores = np.arange(400) < 100
    grouped, rows = mean_interval(scores, range(400))[1:], bootstrap_interval(scores)
    assert np.allclose(grouped, rows, atol=0.01)


def test_five_equal_captions_of_a_picture_are_no_more_than_one():
    hits = np.random.default_rng(1).random(50) < 0.5
    one = mean_interval(hits, range(50))
    five = mean_interval(np.repeat(hits, 5), np.repeat(np.arange(50), 5))
    assert five == pytest.approx(one)
    alone = mean_interval(np.repeat(hits, 5), range(250))
    assert alone[2] - alone[1] < 0.6 * (one[2] - one[1])


def test_the_width_is_that_of_the_binomial():
    _, low, high = mean_interval(np.arange(1300) < 650, range(1300))
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 1300), rel=0.1)


def test_a_ratio_of_sums_keeps_numerator_and_denominator_together():
    rows = np.array([[1.0, 10], [3, 10], [2, 10]])
    value, low, high = grouped_interval(rows, "abc", lambda sums: sums[..., 0] / sums[..., 1])
    assert value == pytest.approx(0.2) and 0.1 <= low < high <= 0.3


def test_one_picture_has_no_interval():
    value, low, high = mean_interval([1.0, 0.0], "aa")
    assert value == 0.5 and np.isnan([low, high]).all()


@pytest.mark.parametrize("scores", [[], [float("nan"), 1.0]])
def test_no_rows_and_no_numbers_raise(scores):
    with pytest.raises(ValueError, match="at least one"):
        mean_interval(scores, range(len(scores)))


def test_groups_of_another_number_and_impossible_settings_raise():
    with pytest.raises(ValueError, match="3 groups"):
        mean_interval([1.0, 0.0], "abc")
    with pytest.raises(ValueError, match="confidence=2"):
        mean_interval([1.0, 0.0], "ab", confidence=2)
