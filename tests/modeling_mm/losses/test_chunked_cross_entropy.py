"""Cross-entropy without logits equals cross-entropy with them, in its numbers, gradients and corner cases."""

# tensors() may leave the bias out; the test that does so asks.

import pytest
import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from mm.modeling_mm.core.linear import capped
from mm.modeling_mm.losses.token_losses import chunked_cross_entropy, token_loss

ROWS, WIDTH, VOCABULARY = 12, 5, 17
TARGETS = torch.tensor([3, -100, 16, 0, 3, 3, -100, -100, 9, 1, 2, 15]).reshape(2, 6)


def tensors(dtype=torch.float64, bias=True):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, WIDTH), (VOCABULARY, WIDTH)] + [(VOCABULARY,)] * bias
    made = [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in made] + [None] * (not bias)


def both(given, targets=TARGETS, chunk_rows=4, softcap=None, **options):
    """[loss, gradients ...] with logits, and without."""
    results = []
    for chunked in (False, True):
        hidden, weight, bias = given
        if chunked:
            loss = chunked_cross_entropy(
                hidden, weight, targets, bias, chunk_rows=chunk_rows, softcap=softcap, **options
            )
        else:
            loss = token_loss(capped(linear(hidden, weight, bias), softcap), targets, **options)
        leaves = [tensor for tensor in given if tensor is not None and tensor.requires_grad]
        results.append([loss, *torch.autograd.grad(loss * 3, leaves)])
    return results


@pytest.mark.parametrize("chunk_rows", [1, 4, 9, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("softcap", [None, 0.9])
@pytest.mark.parametrize("count", [None, 7, torch.tensor(7)])
def test_losses_and_gradients_are_those_of_full_logits(chunk_rows, smoothing, count, softcap):
    options = {"label_smoothing": smoothing, "num_items_in_batch": count, "softcap": softcap}
    for expected, got in zip(*both(tensors(), chunk_rows=chunk_rows, **options), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_finite_differences_however_often_they_are_asked_for(bias):
    hidden, weight, bias = tensors(bias=bias)

    def loss(*given):
        return chunked_cross_entropy(given[0], given[1], TARGETS, *given[2:], label_smoothing=0.1, chunk_rows=4)

    assert torch.autograd.gradcheck(
        loss, [tensor for tensor in (hidden, weight, bias) if tensor is not None], nondet_tol=1e-12
    )


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen):
    given = tensors()
    given[frozen].requires_grad_(False)
    for expected, got in zip(*both(given), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [None, 0, torch.tensor(0)])
def test_without_a_label_the_loss_and_its_gradients_are_zero(smoothing, count):
    options = {"label_smoothing": smoothing, "num_items_in_batch": count}
    _, (loss, *grads) = both(tensors(), torch.full_like(TARGETS, -100), **options)
    assert loss.item() == 0
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads)


def test_without_gradients_only_the_loss_is_made():
    hidden, weight, bias = tensors()
    expected = chunked_cross_entropy(hidden, weight, TARGETS, bias)
    with torch.no_grad():
        loss = chunked_cross_entropy(hidden, weight, TARGETS, bias)
    assert not loss.requires_grad and torch.equal(loss, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_further_from_fp64_than_full_logits_are(dtype):
    """Twice the error for the loss, three times for gradients, as of the kernels, and a rounding of the largest: a
    product of other shapes may round otherwise, and how little full logits err is luck."""
    given = tensors(dtype)
    exact = both([tensor.detach().double().requires_grad_() for tensor in given])[0]
    for place, (truth, full, chunked) in enumerate(zip(exact, *both(given), strict=True)):
        assert chunked.dtype == full.dtype
        bound = (full - truth).abs().max() * (3 if place else 2)
        assert (chunked - truth).abs().max() <= bound + torch.finfo(dtype).eps / 2 * truth.abs().max()


def test_fp16_gradients_do_not_vanish_over_many_rows():
    """A share of a long batch is below fp16's smallest number; the sum of all is not."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, WIDTH, generator=generator).half().requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).half().requires_grad_()
    targets = torch.arange(64) % VOCABULARY
    (expected,) = torch.autograd.grad(token_loss(linear(hidden.double(), weight.double()), targets), weight)
    loss = chunked_cross_entropy(hidden, weight, targets, num_items_in_batch=10**6, chunk_rows=4)
    (scaled,) = torch.autograd.grad(loss * 10**6 / 64, weight)
    torch.testing.assert_close(scaled, expected, rtol=2**-8, atol=2**-12)


def test_large_fp16_states_do_not_overflow():
    """128 rows of 4000 sum to 512 000, which fp16 cannot hold; their mean it can."""
    hidden = torch.full((128, WIDTH), 4000.0, dtype=torch.float16)
    weight = torch.zeros(VOCABULARY, WIDTH, dtype=torch.float16, requires_grad=True)
    loss = chunked_cross_entropy(hidden, weight, torch.zeros(128, dtype=torch.long))
    (grad,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(grad[0], torch.full_like(grad[0], 4000 * (1 / VOCABULARY - 1)), rtol=2**-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_multiplies_in_its_dtype(dtype):
    given = tensors(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        full, chunked = both(given)
    torch.testing.assert_close(chunked[0], full[0], rtol=0, atol=1e-6)
    for expected, got in zip(full[1:], chunked[1:], strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def test_no_tensor_of_rows_by_vocabulary_is_ever_made():
    class Widest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if torch.is_tensor(result):
                self.numbers = max(self.numbers, result.numel())
            return result

    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(100, 4, requires_grad=True)
    with Widest() as widest:
        chunked_cross_entropy(hidden, weight, torch.arange(64), chunk_rows=8).backward()
    assert widest.numbers == 8 * 100


@pytest.mark.parametrize(
    "given, message",
    [
        ({"hidden": torch.zeros(2, 6, 4)}, r"hidden must be \(\.\.\., 5\).*got \(2, 6, 4\)"),
        ({"targets": TARGETS[0]}, r"targets one per row; got \(2, 6, 5\) and \(6,\)"),
        ({"bias": torch.zeros(3)}, r"bias must be \(17,\); got \(3,\)"),
        ({"hidden": torch.zeros(2, 6, 5)}, "one dtype; got torch.float32 and torch.float64"),
        ({"chunk_rows": 0}, "chunk_rows must be 1 or more; got 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(given, message):
    hidden, weight, bias = tensors()
    with pytest.raises(ValueError, match=message):
        chunked_cross_entropy(**{"hidden": hidden, "weight": weight, "targets": TARGETS, "bias": bias, **given})
