"""Momentum copies, queues and soft targets beside ALBEF's formulas, step by step; distillation beside Hinton's."""

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from comparing import close
from mm.modeling_mm.losses.contrastive import info_nce_loss
from mm.modeling_mm.losses.distillation import distillation_loss, similarity_distillation_loss
from mm.modeling_mm.losses.momentum import EmbeddingQueue, MomentumContrast, momentum_copy, momentum_update
from mm.modeling_mm.losses.positive_pairs import Pairs

WIDTH = 6


def rows(count, seed):
    made = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normalize(made, dim=1)


def test_the_teacher_is_the_mean_of_its_past_students():
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = momentum_copy(student)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    expected = [p.detach().clone() for p in teacher.parameters()]
    for step in range(3):
        with torch.no_grad():
            for p in student.parameters():
                p.add_(step + 1)
            student(torch.randn(5, 3))
        momentum_update(teacher, student, 0.9)
        expected = [0.9 * old + 0.1 * new for old, new in zip(expected, student.parameters(), strict=True)]
    for ours, theirs in zip(teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    for ours, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_momentum_or_a_student_that_does_not_fit_is_refused_in_words():
    with pytest.raises(ValueError, match=r"momentum must be in 0\.\.1; got 2"):
        momentum_update(nn.Linear(2, 2), nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match=r"only one has \['bias'\]"):
        momentum_update(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.5)
    with pytest.raises(ValueError, match="must hold 1 or more; got 0"):
        EmbeddingQueue(0, 4)


@pytest.mark.parametrize("sizes", [[2, 2, 2], [3, 3, 3, 3], [1, 7, 2], [4, 1, 9], [0, 2]])
def test_a_queue_keeps_the_last_ones_whatever_the_batches(sizes):
    queue = EmbeddingQueue(5, 1).double()
    everything = torch.arange(sum(sizes), dtype=torch.float64)[:, None] + 1
    for part in everything.split(sizes):
        queue.push(part, part[:, 0].long())
    held = queue.embeds[queue.filled][:, 0]
    assert sorted(held.tolist()) == everything[-5:, 0].tolist()
    assert torch.equal(queue.numbers[queue.filled], held.long())


def albef(student, teacher, keys, positives, scale, alpha):
    """The loss of one direction, query by query; keys (m, P), positives a list of columns per query."""
    losses = []
    for query, slow, own in zip(student, teacher, positives, strict=True):
        logs = torch.stack([scale * query @ key for key in keys]).log_softmax(0)
        soft = torch.stack([scale * slow @ key for key in keys]).softmax(0)
        hard = torch.tensor([(column in own) / len(own) for column in range(len(keys))], dtype=logs.dtype)
        losses.append(-((alpha * soft + (1 - alpha) * hard) * logs).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_soft_targets_and_queues_are_albef_s_over_steps(alpha):
    contrast = MomentumContrast(4, WIDTH).double().train()
    queues: tuple[list, list] = ([], [])
    for step in range(4):
        images, texts, slow_images, slow_texts = (rows(3, 10 * step + i) for i in range(4))
        images.requires_grad_()
        loss = contrast(images, texts, slow_images, slow_texts, Pairs(3, 3), 5.0, alpha)
        own = [[0], [1], [2]]
        of_images = albef(images, slow_images, [*slow_texts, *queues[1]], own, 5.0, alpha)
        of_texts = albef(texts, slow_texts, [*slow_images, *queues[0]], own, 5.0, alpha)
        torch.testing.assert_close(loss, (of_images + of_texts) / 2, rtol=0, atol=1e-12)
        (ours,), (theirs,) = (torch.autograd.grad(x, images) for x in (loss, (of_images + of_texts) / 2))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        queues = ([*queues[0], *slow_images][-4:], [*queues[1], *slow_texts][-4:])


def test_a_picture_seen_before_is_a_positive_in_the_queue():
    contrast = MomentumContrast(4, WIDTH).double().train()
    first, second = (rows(2, seed) for seed in (0, 1))
    contrast(*[first.requires_grad_()] * 2, first, first, Pairs(2, 2, image_ids=torch.tensor([7, 8])), 5.0)
    given = Pairs(2, 2, image_ids=torch.tensor([9, 7]))
    loss = contrast(second, second, second, second, given, 5.0)
    expected = albef(second, second, [*second, *first], [[0], [1, 2]], 5.0, 0.0)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


def test_with_empty_queues_and_no_soft_targets_it_is_info_nce_against_fixed_keys():
    images, texts = rows(3, 0), rows(6, 1)
    pairs = Pairs(3, 6)
    loss = MomentumContrast(4, WIDTH).double()(images, texts, images, texts, pairs, 5.0)
    torch.testing.assert_close(loss, info_nce_loss(images, texts, pairs, 5.0), rtol=0, atol=1e-12)


def test_evaluation_pushes_nothing():
    contrast = MomentumContrast(4, WIDTH).double()
    embeds = rows(3, 0).requires_grad_()
    contrast.eval()(embeds, embeds, embeds, embeds, Pairs(3, 3), 5.0)
    with torch.no_grad():
        contrast.train()(embeds, embeds, embeds, embeds, Pairs(3, 3), 5.0)
    assert contrast.images.pushed == contrast.texts.pushed == 0


def test_a_loaded_contrast_goes_on_where_the_saved_one_stood():
    one, other = (MomentumContrast(4, WIDTH).double() for _ in "ab")
    embeds = rows(3, 0).requires_grad_()
    one(embeds, embeds, embeds, embeds, Pairs(3, 3), 5.0)
    other.load_state_dict(one.state_dict())
    losses = [contrast(embeds, embeds, embeds, embeds, Pairs(3, 3), 5.0) for contrast in (one, other)]
    close(*losses)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_the_divergence_from_the_teacher(temperature):
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(2, 3, 5, generator=generator, dtype=torch.float64) for _ in "ab")
    logits.requires_grad_()
    targets = torch.tensor([[0, -100, 1], [-100, -100, 4]])
    expected = 0.0
    for place in ((0, 0), (0, 2), (1, 2)):
        p, q = (x[place].div(temperature).softmax(0) for x in (teacher, logits))
        expected = expected + temperature**2 * (p * (p / q).log()).sum()
    loss = distillation_loss(logits, teacher, targets, temperature)
    torch.testing.assert_close(loss, expected / 3, rtol=0, atol=1e-12)
    torch.testing.assert_close(distillation_loss(logits, teacher, targets, temperature, 6), loss / 2)
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, teacher, targets, temperature), (logits,))
    assert distillation_loss(teacher, teacher, targets).item() == pytest.approx(0, abs=1e-12)


def test_distillation_without_a_place_is_zero_with_zero_gradient():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = distillation_loss(logits, torch.randn(2, 3, 5), torch.full((2, 3), -100))
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and torch.equal(grad, torch.zeros_like(grad))
    with pytest.raises(ValueError, match=r"must be \(\.\.\., V\), targets \(\.\.\.\); got"):
        distillation_loss(logits, torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.long))


def test_similarities_are_distilled_in_both_directions():
    images, texts = rows(3, 0), rows(4, 1)
    slow_images, slow_texts = rows(3, 2), rows(4, 3)
    pairs = Pairs(3, 4, torch.tensor([0, 1, 2, 1]))
    expected = 0.0
    for ours, theirs in (
        (images @ texts.T, slow_images @ slow_texts.T),
        (texts @ images.T, slow_texts @ slow_images.T),
    ):
        p, q = (9.0 * theirs).softmax(1), (5.0 * ours).softmax(1)
        expected = expected + (p * (p / q).log()).sum(1).mean() / 2
    loss = similarity_distillation_loss(images, texts, slow_images, slow_texts, pairs, 5.0, 9.0)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
