"""What holds for every metric of classes, and for perplexity: order, copies, bounds, more of it right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm.evaluation import classes
from mm.evaluation.perplexity import perplexity

few = settings(max_examples=15, deadline=None)
logs = st.lists(st.lists(st.floats(-20, 0), min_size=1, max_size=5), min_size=1, max_size=6)


@st.composite
def rows(draw):
    """(labels, logits (N, 4)) of N rows."""
    count = draw(st.integers(1, 12))
    labels = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    logits = draw(st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=count, max_size=count))
    return np.array(labels), np.array(logits, float)


def every(labels: np.ndarray, logits: np.ndarray) -> dict[str, classes.Score]:
    told = logits.argmax(1)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = classes.class_scores(told, labels) | classes.probability_scores(shares, labels)
    found |= classes.ordinal_scores(told, labels, classes=4) | {"auc": classes.macro_auc_score(shares, labels)}
    sets = classes.label_scores((logits > 0).astype(int), (labels[:, None] <= np.arange(4)).astype(int))
    return found | {f"sets_{name}": score for name, score in sets.items()}


@few
@given(rows(), st.randoms(use_true_random=False))
def test_order_and_copies_do_not_count_and_all_have_bounds(case, random):
    labels, logits = case
    places = list(range(len(labels)))
    random.shuffle(places)
    found, moved = every(labels, logits), every(labels[places], logits[places])
    twice = every(np.tile(labels, 2), np.tile(logits, (2, 1)))
    for name, score in found.items():
        assert moved[name].value == pytest.approx(score.value, nan_ok=True), name
        assert twice[name].value == pytest.approx(score.value, nan_ok=True), name
        assert score.of(score.statistics.sum(0)) == pytest.approx(score.value, nan_ok=True), name
        least = -1 if name == "quadratic_kappa" else 0
        most = {"nll": np.inf, "brier": 2, "mean_absolute_error": 3}.get(name, 1)
        assert np.isnan(score.value) or least - 1e-9 <= score.value <= most + 1e-9, name


@few
@given(rows())
def test_a_row_that_becomes_right_makes_nothing_worse(case):
    labels, logits = case
    better = logits.copy()
    better[0, labels[0]] = better[0].max() + 1
    before, after = every(labels, logits), every(labels, better)
    for name in (
        "accuracy",
        "micro_f1",
        "balanced_accuracy",
        "weighted_recall",
        "brier",
        "nll",
        "mean_absolute_error",
    ):
        gain = after[name].value - before[name].value
        assert (gain if before[name].higher_is_better else -gain) >= -1e-9, name
    right = every(labels, np.eye(4)[labels] * 50)
    assert right["accuracy"].value == right["macro_f1"].value == 1 and right["mean_absolute_error"].value == 0


@few
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=15))
def test_auc_counts_pairs_and_only_the_order_of_scores(case):
    scores, labels = (np.array(one) for one in zip(*case, strict=True))
    value = classes.auc(scores, labels)
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels == 1] for b in scores[labels == 0]]
    assert value == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)
    assert classes.auc(np.exp(scores), labels) == pytest.approx(value, nan_ok=True)
    assert classes.auc(-scores, labels) == pytest.approx(1 - value, nan_ok=True)
    raised = scores + labels * 0.5  # rows of class 1 pass what they tied with
    assert np.isnan(value) or classes.auc(raised, labels) >= value
    both = classes.macro_auc_score(np.stack([-scores, scores], 1), labels).value
    assert both == pytest.approx(value, nan_ok=True)


def test_the_interval_of_auc_is_that_of_drawing_rows():
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.4).astype(int)
    scores = rng.normal(size=400) + labels
    _, low, high = classes.macro_auc_score(np.stack([-scores, scores], 1), labels).interval()
    draws = [rng.integers(0, 400, 400) for _ in range(500)]
    bounds = np.quantile([classes.auc(scores[one], labels[one]) for one in draws], [0.025, 0.975])
    assert [low, high] == pytest.approx(bounds.tolist(), abs=0.01)


@few
@given(logs, st.randoms(use_true_random=False))
def test_perplexity_knows_no_order_has_bounds_and_falls_with_surer_tokens(texts, random):
    given_texts = [np.array(one) for one in texts]
    mixed = random.sample(given_texts, len(given_texts))
    score = perplexity(given_texts)
    assert perplexity(mixed).value == pytest.approx(score.value) == perplexity(given_texts * 2).value
    assert score.value >= 1 - 1e-12 and perplexity([one / 2 for one in given_texts]).value <= score.value + 1e-9
