"""Accuracy and macro F1, worked by hand (scikit-learn's f1_score(average="macro") gives the same numbers)."""

import pytest

from mm.evaluation.classes import accuracy, class_counts, macro_f1

TRUTH = [0, 0, 0, 1, 1, 2]
TOLD = [0, 0, 1, 1, 2, 2]


def test_accuracy_is_the_share_of_right_rows():
    assert accuracy(class_counts(TOLD, TRUTH).sum(0)) == pytest.approx(4 / 6)


def test_macro_f1_is_the_mean_over_classes():
    # class 0: 2 right of 2 told and 3 true: 4/5; class 1: 1 of 2 and 2: 1/2; class 2: 1 of 2 and 1: 2/3
    assert macro_f1(class_counts(TOLD, TRUTH).sum(0)) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)


def test_a_class_that_is_only_predicted_counts_as_wrong_and_one_that_never_occurs_does_not():
    assert macro_f1(class_counts([0, 7], [0, 0]).sum(0)) == pytest.approx((2 / 3 + 0) / 2)
    assert macro_f1(class_counts([3, 3], [3, 3]).sum(0)) == 1.0


def test_a_resample_without_a_class_leaves_it_out():
    assert macro_f1(class_counts([0, 1], [0, 2])[0]) == 1.0


@pytest.mark.parametrize(("told", "truth"), [([], []), ([0], [0, 1]), ([0.5], [1]), ([[0]], [[0]])])
def test_what_is_no_row_of_class_numbers_raises(told, truth):
    with pytest.raises(ValueError, match="one class number each"):
        class_counts(told, truth)
