"""How far from the truth a kernel may be: the rule of FlashAttention's tests, which needs no tolerance by hand.

A result may err by `factor` times the error of plain PyTorch in the same dtype. In fp32 that error is luck: where
PyTorch hits a result exactly, twice its error says nothing. So tests/kernels/test_numerics.py takes, for what is fp32
(outputs and gradients of fp32, and every lse and mass), the largest error of eleven writings: the specification, and
ten with the sums in other orders, half of them with factors of 22 bits, which is what three TF32 products keep. That
is wider than twice the error of one call of PyTorch. In bf16 and fp16, output and gradients are held to the one call.
"""

import torch
from torch import Tensor

FORWARD, BACKWARD = 2.0, 3.0  # factors of results, and of gradients and sums over rows


def largest(values: Tensor) -> float:
    """The largest absolute value; NaN if any is NaN, 0 if there are none."""
    return values.abs().amax().item() if values.numel() else 0.0


def error(result: Tensor, truth: Tensor) -> float:
    """The largest difference in fp64. Equal infinities, as the lse of a row without keys, differ by 0."""
    result, truth = result.double(), truth.double()
    return largest(torch.where(result == truth, 0.0, result - truth))


def allowed_error(truth: Tensor, plain: Tensor, factor: float) -> float:
    """`factor` times the error of a plain result in the same dtype, and twice what adding and taking away 0.3 costs.

    The second term is for truths that the plain result happens to hit exactly.
    Source: the tests of FlashAttention-2 (Dao 2023, arXiv:2307.08691), which compare in the same way.
    """
    rounded = truth.to(plain.dtype)
    return factor * error(plain, truth) + 2 * error(rounded + 0.3 - 0.3, rounded)
