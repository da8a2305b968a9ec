"""The classification losses: each by its formula, which one "auto" means, and targets refused in words."""

# Wrong types are handed in on purpose.

import pytest
import torch
from torch.testing import assert_close

from mm.modeling_mm.losses.class_losses import (
    check_class_labels,
    classification_kind,
    classification_loss,
    ordinal_loss,
)

FLOATS = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], dtype=torch.float64)


@pytest.fixture
def logits():
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_cross_entropy_of_a_class_is_that_of_its_share(logits):
    labels = torch.tensor([2, 0])
    expected = -logits.log_softmax(-1)[[0, 1], labels].mean()
    assert_close(classification_loss(logits, labels, "cross_entropy"), expected)
    one_hot = torch.eye(3, dtype=torch.float64)[labels]
    assert_close(classification_loss(logits, one_hot, "cross_entropy"), expected)


def test_bce_judges_every_class_by_itself(logits):
    right = logits.sigmoid()
    expected = -(FLOATS * right.log() + (1 - FLOATS) * (1 - right).log()).mean()
    assert_close(classification_loss(logits, FLOATS, "bce"), expected)


def test_kl_is_zero_where_the_shares_are_met(logits):
    assert_close(classification_loss(FLOATS.clamp(min=1e-30).log(), FLOATS, "kl").item(), 0.0, atol=1e-12, rtol=0)
    shares = FLOATS[:1]
    expected = (shares * (shares.log() - logits[:1].log_softmax(-1))).sum()
    assert_close(classification_loss(logits[:1], shares, "kl"), expected)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_mse_takes_one_number_per_row(shape):
    prediction = torch.tensor([[1.0], [3.0]])
    assert classification_loss(prediction, torch.tensor([0.0, 1.0]).reshape(shape), "mse").item() == 2.5


def test_ordinal_loss_by_hand():
    """Shares 1/2, 1/3, 1/6 and class 1: right of the first cut with 1/2, left of the second with 5/6."""
    logits = torch.tensor([[1 / 2, 1 / 3, 1 / 6]], dtype=torch.float64).log()
    expected = -(torch.tensor(1 / 2).double().log() + torch.tensor(5 / 6).double().log()) / 2
    assert_close(ordinal_loss(logits, torch.tensor([1])), expected, rtol=1e-6, atol=0)


def test_a_distant_class_costs_more_than_a_neighbour():
    sure_of_0 = torch.tensor([[5.0, 0.0, 0.0, 0.0]])
    costs = [ordinal_loss(sure_of_0, torch.tensor([label])).item() for label in range(4)]
    assert costs == sorted(costs) and len(set(costs)) == 4


def test_two_classes_in_order_are_cross_entropy(logits):
    labels = torch.tensor([1, 0])
    assert_close(ordinal_loss(logits[:, :2], labels), classification_loss(logits[:, :2], labels, "cross_entropy"))


@pytest.mark.parametrize("kind", ["cross_entropy", "bce", "kl", "mse", "ordinal"])
def test_losses_of_half_precision_are_taken_in_fp32(logits, kind):
    labels = torch.tensor([0, 2]) if kind in ("cross_entropy", "ordinal") else FLOATS.bfloat16()
    assert classification_loss(logits.bfloat16(), labels, kind).dtype == torch.float32


@pytest.mark.parametrize(
    ("kind", "problem_type", "num_labels", "is_float", "expected"),
    [
        ("auto", None, 3, False, "cross_entropy"),
        ("auto", None, 3, True, "bce"),
        ("auto", None, 1, True, "mse"),
        ("auto", "regression", 3, True, "mse"),
        ("auto", "single_label_classification", 3, True, "cross_entropy"),
        ("auto", "multi_label_classification", 3, True, "bce"),
        ("kl", None, 3, True, "kl"),
        ("ordinal", "single_label_classification", 3, False, "ordinal"),
    ],
)
def test_auto_follows_transformers(kind, problem_type, num_labels, is_float, expected):
    labels = torch.zeros(2) if is_float else torch.zeros(2, dtype=torch.long)
    assert classification_kind(kind, problem_type, num_labels, labels) == expected


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (torch.tensor([0, 3]), "cross_entropy", r"must be in 0\.\.2; got 0\.\.3"),
        (torch.tensor([-100, 1]), "ordinal", r"must be in 0\.\.2"),
        (torch.tensor([0, 1, 2]), "cross_entropy", r"int64 or float \(2,\); got torch.int64 \(3,\)"),
        (torch.tensor([0.0, 1.0]), "cross_entropy", r"\(2, 3\); got torch.float32 \(2,\)"),
        (torch.tensor([0, 1]), "bce", r"must be float \(2, 3\); got torch.int64 \(2,\)"),
        (FLOATS * 2, "bce", r"must be in 0\.\.1; got 0\.\.2"),
        (-FLOATS, "kl", r"must be in 0\.\.inf"),
        (FLOATS, "ordinal", r"must be int64 \(2,\)"),
        (FLOATS * torch.nan, "mse", "must be finite"),
        (torch.tensor([True, False]), "cross_entropy", "got torch.bool"),
    ],
)
def test_other_targets_are_refused_in_words(logits, labels, kind, message):
    with pytest.raises(ValueError, match=message):
        check_class_labels(labels, logits, kind)


def test_labels_are_tensors_and_classes_two(logits):
    with pytest.raises(TypeError, match="labels must be a tensor; got list"):
        check_class_labels([0, 1], logits, "cross_entropy")
    with pytest.raises(ValueError, match="two classes or more; this model has num_labels=1"):
        check_class_labels(torch.tensor([0, 0]), logits[:, :1], "ordinal")
