"""The language-modelling loss: shifted, ignoring, smoothed, and averaged over the batch that the caller names."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from mm.modeling_mm.losses.token_losses import causal_lm_loss

LABELS = torch.tensor([[-100, -100, 5, 6, 2], [1, 7, -100, 3, -100]])


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 11, generator=generator, dtype=torch.float64).requires_grad_()


def by_hand(logits, labels, smoothing=0.0):
    """(sum of the losses, how many), token by token."""
    total, count = 0.0, 0
    for row, targets in zip(logits, labels, strict=True):
        for position, target in enumerate(targets[1:].tolist()):
            if target == -100:
                continue
            logs = row[position].log_softmax(-1)
            total = total - (1 - smoothing) * logs[target] - smoothing * logs.mean()
            count += 1
    return total, count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_the_mean_over_the_next_tokens_that_are_not_ignored(logits, smoothing):
    total, count = by_hand(logits, LABELS, smoothing)
    assert count == 5
    loss = causal_lm_loss(logits, LABELS, label_smoothing=smoothing)
    torch.testing.assert_close(loss, total / count, rtol=0, atol=1e-12)


def test_smoothing_is_torch_s(logits):
    expected = cross_entropy(logits[:, :-1].flatten(0, 1), LABELS[:, 1:].flatten(), label_smoothing=0.2)
    torch.testing.assert_close(causal_lm_loss(logits, LABELS, label_smoothing=0.2), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [7, torch.tensor(7), torch.tensor(7.0)])
def test_the_number_of_items_of_the_whole_batch_divides_when_given(logits, count):
    total, _ = by_hand(logits, LABELS)
    torch.testing.assert_close(causal_lm_loss(logits, LABELS, count), total / 7, rtol=0, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [None, 0, torch.tensor(0)])
def test_without_a_label_the_loss_and_its_gradients_are_zero(logits, smoothing, count):
    loss = causal_lm_loss(logits, torch.full((2, 5), -100), count, smoothing)
    loss.backward()
    assert loss.item() == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_row_of_one_token_predicts_nothing(logits):
    assert causal_lm_loss(logits[:, :1], LABELS[:, :1] * 0).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_fp32(logits, dtype):
    half = logits.detach().to(dtype)
    loss = causal_lm_loss(half, LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, causal_lm_loss(half.float(), LABELS), rtol=0, atol=0)
