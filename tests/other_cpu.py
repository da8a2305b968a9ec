"""Another CPU, for tests: matrix products whose last bits follow from where their operands lie and from their shapes.

MKL and oneDNN choose the order of a sum by the CPU, the shapes and the addresses of the operands. A test that asks two
modules with the same weights for the same bits passes on the machines where they happen to choose alike. Here numbers
of a product are moved by a unit in their last place, always alike for operands of the same shapes, strides and places
modulo 16: what passes with `pytest --other-cpu` and without asks for no more than every CPU gives. (New tensors begin
at 0 modulo 16, those of a file wherever weight_files.py says.) Triton's kernels are left as they are.
"""

import hashlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]: it has no stub
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

FLOATS = (torch.float32, torch.float64)
PRODUCTS = {
    F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d, F.scaled_dot_product_attention, torch.matmul, torch.mm,
    torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__,
    Tensor.mm, Tensor.bmm,
}  # fmt: skip


def move(result: Tensor, operands: tuple) -> None:
    """In place and unseen by autograd, so that a graph is what it is without."""
    key = repr([(x.data_ptr() % 16, x.shape, x.stride()) for x in operands if isinstance(x, Tensor)])
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big")
    steps = torch.randint(-1, 2, result.shape, generator=torch.Generator().manual_seed(seed))
    result.data.mul_(1 + steps.to(result.dtype) * torch.finfo(result.dtype).eps)


class OtherCpu(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func not in PRODUCTS or type(result) is not Tensor or result.dtype not in FLOATS or result.is_meta:
            return result
        if torch.compiler.is_compiling() or _functorch.maybe_current_level() is not None:
            return result
        move(result, args)
        return result


def allowance() -> float:
    """How much more than 1e-5 two ways of one sum in fp32 may differ: 10 while every product is moved on purpose, 1 on
    the CPU as it is, for which the bar is set."""
    return 10.0 if any(isinstance(mode, OtherCpu) for mode in _get_current_function_mode_stack()) else 1.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    with OtherCpu():
        return (yield)
