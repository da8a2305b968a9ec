"""What mm evaluate says of classifiers: every metric with its interval, of one class, of ordered ones, of several."""

import numpy as np
import pytest

from mm.training.class_metrics import score_classes
from mm.training.predictions import Question


def questions(labels) -> list[Question]:
    return [Question(str(row), str(row), row, [0], label=np.asarray(label)) for row, label in enumerate(labels)]


LABELS, LOGITS = [0, 1, 1, 1], np.log([[0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])


def test_classes_have_every_metric_with_its_interval():
    asked = questions(LABELS)
    found = score_classes(asked, LOGITS, ["cat", "dog", "cow"], every=True)
    assert found["accuracy"][0] == 0.75 and found["balanced_accuracy"][0] == pytest.approx((1 + 2 / 3) / 2)
    assert found["auc"][0] == pytest.approx(1.0)
    assert found["brier"][0] == pytest.approx((0.015 + (0.36 + 0.49 + 0.01) + 2 * 0.06) / 4)
    assert found["ece"][0] == pytest.approx((0.1 + 0.6 + 2 * 0.2) / 4)
    assert "weighted_f1" in found and "mean_absolute_error" not in found
    assert all(low <= value <= high for value, low, high in found.values())
    assert [one.confidence for one in asked] == pytest.approx([0.9, 0.6, 0.8, 0.8])
    assert asked[1].prediction == "cat" and asked[1].references == ["dog"]


def test_ordered_classes_have_an_error_in_steps():
    found = score_classes(questions(LABELS), LOGITS, every=True, ordered=True)
    assert found["mean_absolute_error"][0] == pytest.approx(1 / 4) and "quadratic_kappa" in found


def test_training_computes_few():
    assert list(score_classes(questions(LABELS), LOGITS)) == ["accuracy", "macro_f1"]


def test_several_classes_have_averages_and_auc():
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.float32)
    found = score_classes(questions(labels), labels * 2 - 1, every=True)
    assert found["macro_precision"][0] == found["auc"][0] == found["exact_match"][0] == 1
