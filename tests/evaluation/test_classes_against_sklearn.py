"""Metrics of classes: scikit-learn's numbers where it is installed, formulas by hand, and what holds for every data.

The environment of the tests leaves scikit-learn out, as Transformers imports it wherever it finds it: pip install
scikit-learn, then run this file.
"""

import numpy as np
import pytest

from mm.evaluation import classes
from mm.evaluation.significance import compare


@pytest.fixture(scope="module")
def sk():
    return pytest.importorskip("sklearn.metrics", reason="the numbers are compared with scikit-learn's")


@pytest.fixture(params=range(6))
def drawn(request):
    """(predictions, labels, probabilities) of 40 rows; some classes are never right, some never said."""
    rng = np.random.default_rng(request.param)
    labels = rng.integers(0, 5, 40) if request.param % 2 else rng.choice([0, 1, 4], 40)
    probabilities = rng.dirichlet(np.ones(6) * 0.5, 40).round(3)
    probabilities /= probabilities.sum(1, keepdims=True)
    return np.where(rng.random(40) < 0.5, labels, rng.integers(0, 6, 40)), labels, probabilities


def test_one_class_a_row(drawn, sk):
    told, truth, _ = drawn
    found = classes.class_scores(told, truth)
    assert found["accuracy"].value == pytest.approx(sk.accuracy_score(truth, told))
    with np.errstate(all="ignore"):
        assert found["balanced_accuracy"].value == pytest.approx(sk.recall_score(
            truth, told, labels=np.unique(truth), average="macro", zero_division=0))  # fmt: skip
    for name in ("precision", "recall", "f1"):
        function = getattr(sk, f"{name}_score")
        for average in classes.AVERAGES:
            expected = function(truth, told, average=average, zero_division=0)
            assert found[f"{average}_{name}"].value == pytest.approx(expected), (name, average)


def test_several_classes_a_row(sk):
    rng = np.random.default_rng(0)
    told, truth = rng.random((30, 4)) < 0.4, rng.random((30, 4)) < 0.3
    found = classes.label_scores(told, truth)
    assert found["exact_match"].value == pytest.approx(sk.accuracy_score(truth, told))
    for average in classes.AVERAGES:
        assert found[f"{average}_f1"].value == pytest.approx(sk.f1_score(truth, told, average=average))


def test_ordered_classes(drawn, sk):
    told, truth, _ = drawn
    found = classes.ordinal_scores(told, truth)
    assert found["mean_absolute_error"].value == pytest.approx(sk.mean_absolute_error(truth, told))
    assert found["quadratic_kappa"].value == pytest.approx(sk.cohen_kappa_score(truth, told, weights="quadratic"))
    low, high = found["quadratic_kappa"].interval()[1:]
    assert low <= found["quadratic_kappa"].value <= high


def test_probabilities(drawn, sk):
    _, truth, told = drawn
    found = classes.probability_scores(told, truth)
    assert found["nll"].value == pytest.approx(-np.log(np.maximum(told[range(40), truth], 1e-300)).mean())
    assert found["brier"].value == pytest.approx(((told - np.eye(6)[truth]) ** 2).sum(1).mean())
    present = [number for number in range(6) if 0 < (truth == number).sum() < 40]
    expected = np.mean([sk.roc_auc_score(truth == number, told[:, number]) for number in present])
    assert classes.macro_auc(told, truth) == pytest.approx(expected)


def test_calibration_by_hand():
    """Confidence .9 in ten rows of which six are right, .6 in ten of which six are right: (.3 + 0) / 2."""
    told = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    truth = np.array([0] * 6 + [1] * 4 + [1] * 6 + [0] * 4)
    assert classes.probability_scores(told, truth)["ece"].value == pytest.approx(0.15)
    swapped = classes.probability_scores(told[:, ::-1], 1 - truth)["ece"].value
    assert swapped == pytest.approx(0.15)  # whatever the classes are called
    # .5 and .75 are edges of four bins: (.25, .5] holds the first, (.5, .75] the others
    edges = np.array([[0.5, 0.25, 0.25], [0.75, 0.125, 0.125], [0.6, 0.2, 0.2]])
    found = classes.probability_scores(edges, np.array([0, 1, 0]), bins=4)["ece"].value
    assert found == pytest.approx((0.5 + 0.35) / 3)
    sure = classes.probability_scores(np.eye(3)[[0, 1, 2]], np.array([0, 1, 2]))
    assert sure["ece"].value == sure["brier"].value == sure["nll"].value == 0


def test_order_and_copies_change_nothing_and_a_right_row_more_is_no_loss(drawn):
    told, truth, probabilities = drawn
    order = np.random.default_rng(1).permutation(len(told))
    ways = {
        "as they are": (told, truth, probabilities),
        "another order": (told[order], truth[order], probabilities[order]),
        "twice": (np.tile(told, 2), np.tile(truth, 2), np.tile(probabilities, (2, 1))),
    }
    values = {}
    for name, (one, other, shares) in ways.items():
        every = classes.class_scores(one, other) | classes.probability_scores(shares, other)
        every |= classes.ordinal_scores(one, other)
        values[name] = {key: score.value for key, score in every.items()} | {"auc": classes.macro_auc(shares, other)}
        assert all(np.isfinite(list(values[name].values())))
    for name in ways:
        assert values[name] == pytest.approx(values["as they are"])
    better = np.where(np.arange(len(told)) == 0, truth, told)
    for name in ("accuracy", "balanced_accuracy", "micro_f1"):
        more = classes.class_scores(better, truth)[name]
        assert more.value >= values["as they are"][name]
        assert compare(more, classes.class_scores(better, truth)[name]).difference == 0


def test_auc_corners():
    assert np.isnan(classes.auc([0.1, 0.2], [1, 1]))
    assert classes.auc([0.5, 0.5, 0.5], [0, 1, 1]) == 0.5
    assert classes.auc([0.1, 0.9], [0, 1]) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: classes.probability_scores(np.array([[2.0, -1.0]]), [0]), "softmax"),
        (lambda: classes.probability_scores(np.array([[0.5, 0.5]]), [2]), r"0\.\.1"),
        (lambda: classes.probability_scores(np.array([[0.5, 0.5]]), [0], bins=0), "bins"),
        (lambda: classes.label_scores([[2, 0]], [[1, 0]]), "0 or 1"),
        (lambda: classes.ordinal_scores([0, 3], [0, 1], classes=2), r"0\.\.1"),
        (lambda: classes.averaged("f2", "macro"), "f1"),
        (lambda: classes.averaged("f1", "none"), "macro"),
        (lambda: classes.auc([1.0], [2]), "0 or 1"),
        (lambda: classes.class_scores([0.5], [1]), "class number"),
    ],
)
def test_wrong_input_is_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()
