"""What the tests of the kernels share: Triton's interpreter with the arithmetic of the hardware, memory that starts as
NaN, and small inputs of every kind. The error that a kernel is allowed: mm.kernels.accuracy.

Triton's interpreter computes with NumPy. As it comes, it adds, multiplies and compares the bit patterns of bf16 as if
they were integers, cuts off the low half of a number made bf16 instead of rounding it, accumulates fp16 products in
fp16 and ignores `input_precision`. A GPU does none of that, so the tests put `HardwareBuilder` in its place, and let
bf16 through, which MM keeps from Triton's own.
"""

# Triton's interpreter is untyped, and its dtypes are attributes set at run time.

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton._C.libtriton import ir
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

from mm.kernels import cross_attention
from mm.kernels.cross_attention import flash_cross_attention
from mm.kernels.tuning import Tile, forced


def widened(handle: TensorHandle) -> np.ndarray:
    """The numbers of a handle; bf16, which the interpreter keeps as uint16, as fp32."""
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    return handle.data


def bf16_bits(numbers: np.ndarray) -> np.ndarray:
    """uint16 patterns of fp32 numbers rounded to bf16, to nearest and to even between two; every NaN is 0x7FC0."""
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(numbers), 0x7FC0, rounded).astype(np.uint16)


def tf32(numbers: np.ndarray, half: int) -> np.ndarray:
    """fp32 numbers with the 10 bits of mantissa that tensor cores read; half: 0 cuts off, 0x1000 rounds to nearest."""
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32)
    return np.where(np.isfinite(numbers), ((bits + half) & 0xFFFFE000).view(np.float32), numbers)


def product(left: np.ndarray, right: np.ndarray, precision: object) -> np.ndarray:
    """left @ right of fp32 as tl.dot's input_precision has it; with "tf32x3" the two small terms before the large."""
    if precision == ir.INPUT_PRECISION.IEEE:
        return left @ right
    if precision == ir.INPUT_PRECISION.TF32:
        return tf32(left, 0) @ tf32(right, 0)
    large_left, large_right = tf32(left, 0x1000), tf32(right, 0x1000)
    small_left, small_right = tf32(left - large_left, 0x1000), tf32(right - large_right, 0x1000)
    small = small_left @ large_right + large_left @ small_right
    return np.nan_to_num(small, nan=0.0) + large_left @ large_right


class HardwareBuilder(InterpreterBuilder):
    """The interpreter with bf16 numbers, fp32 sums of fp16 and bf16 products, and tf32 where a kernel asks for it."""

    def cast_impl(self, src, dst_type):
        target = dst_type.scalar
        if target == tl.bfloat16:
            return TensorHandle(bf16_bits(widened(src).astype(np.float32)), tl.bfloat16)
        if src.dtype.scalar == tl.bfloat16:
            return super().cast_impl(TensorHandle(widened(src), tl.float32), dst_type)
        return super().cast_impl(src, dst_type)

    def binary_op(self, lhs, rhs, op):
        if lhs.dtype.scalar != tl.bfloat16:
            return super().binary_op(lhs, rhs, op)
        result = op(widened(lhs), widened(rhs))
        return TensorHandle(result, tl.int1) if result.dtype == bool else TensorHandle(bf16_bits(result), tl.bfloat16)

    def unary_op(self, arg, op):
        if arg.dtype.scalar != tl.bfloat16:
            return super().unary_op(arg, op)
        return TensorHandle(bf16_bits(op(widened(arg))), tl.bfloat16)

    def create_fma(self, x, y, z):
        if x.dtype.scalar != tl.bfloat16:
            return super().create_fma(x, y, z)
        return TensorHandle(bf16_bits(widened(x) * widened(y) + widened(z)), tl.bfloat16)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        if a.dtype.scalar == tl.float32:
            result = product(a.data, b.data, input_precision)
        elif a.dtype.scalar in (tl.bfloat16, tl.float16):
            result = widened(a).astype(np.float32) @ widened(b).astype(np.float32)
        else:
            return super().create_dot(a, b, d, input_precision, max_num_imprecise_acc)
        return TensorHandle(result + d.data, d.dtype.scalar)


def call_patching_once(self, *args, **kwargs):
    """A call from kernel to kernel. Triton's own goes through the whole of triton.language again, for milliseconds,
    though the launch or an earlier call has put the interpreter's functions there."""
    languages = [value for value in self.fn.__globals__.values() if value is tl or value is tl.core]
    if any(tl.core.is_builtin(language.load) for language in languages):
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*args, **kwargs)


@pytest.fixture(autouse=True)
def hardware_arithmetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interpreter.interpreter_builder, "__class__", HardwareBuilder)
    monkeypatch.setattr(cross_attention, "INTERPRETED_DTYPES", cross_attention.KERNEL_DTYPES)
    monkeypatch.setattr(InterpretedFunction, "__call__", call_patching_once)
    # oneDNN compiles PyTorch's own 16-bit products for every shape anew, and keeps them: 2 GB after 2,000 cases.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with np.errstate(over="ignore", invalid="ignore"):  # a GPU does not warn of infinities either
        yield


@contextmanager
def filled_with_nan() -> Iterator[None]:
    """Within, what torch.empty and its like give is NaN (integers: their maximum): an unwritten place shows."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def strided(values: Tensor, layout: str) -> Tensor:
    """`values` (B, H, N, D) with other strides, and NaN in whatever memory lies between."""
    if layout == "heads inside":
        return values.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "columns":
        return values.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "gaps":
        batch, heads, rows, width = values.shape
        buffer = torch.full((batch, heads + 1, rows + 2, width + 8), float("nan"), dtype=values.dtype)
        return buffer[:, 1:, 1:-1, 8:].copy_(values)
    return values.contiguous()


def draw_tensors(
    dtype=torch.float32, batch=2, heads=2, kv_heads=1, queries=5, keys=37, width=40, ragged=False, seed=0
) -> list[Tensor]:
    """Query, key and value; ragged: the queries of all contexts in one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1 if ragged else batch, heads, queries), (batch, kv_heads, keys), (batch, kv_heads, keys))
    return [torch.randn(*shape, width, generator=generator).to(dtype) for shape in shapes]


def settings_for(kind: str, keys: int = 37) -> dict[str, Tensor]:
    """Keyword arguments for draw_tensors() with that many keys, 37 or fewer; ranges may be empty."""
    low = torch.tensor([[0, 3, 16, 5, 30], [0, 19, 1, 0, 16]])
    high = torch.tensor([[37, 17, 32, 5, 37], [20, 20, 2, 16, 17]])
    every = {
        "key_lengths": torch.tensor([37, 20]).clamp(max=keys),
        "key_mask": torch.rand(2, 37, generator=torch.Generator().manual_seed(1))[:, :keys].contiguous() < 0.7,
        "row_ranges": torch.stack([low, high], -1).clamp(max=keys),
    }
    if kind == "ragged":
        ends = torch.tensor([0, 3, 5])
        return {**every, "row_ranges": every["row_ranges"][:1].contiguous(), "cu_rows": ends}
    wanted = {"all keys": (), "lengths": ("key_lengths",), "mask": ("key_mask",), "ranges": ("row_ranges",)}
    return {name: every[name] for name in wanted.get(kind, every)}


def attend_and_derive(given: list[Tensor], settings: dict, splits: int = 1) -> list[Tensor]:
    """Output, lse, mass and the gradients of query, key and value, through the kernels. Every context has the same
    weights, so that contexts may change places."""
    given = [tensor.detach().requires_grad_() for tensor in given]
    with forced(tile=Tile(16, 16, 4, 1), splits=splits):
        got = flash_cross_attention(*given, **settings, return_lse=True, return_mass=True)
        generator = torch.Generator().manual_seed(7)
        weights = [torch.randn(part.shape[1:], generator=generator).to(part) for part in (got.output, got.lse)]
        weights = [one.expand_as(part).contiguous() for one, part in zip(weights, got, strict=False)]
        gradients = torch.autograd.grad((got.output, got.lse), given, weights)
    return [tensor.detach() for tensor in (*got, *gradients)]


@pytest.fixture(scope="session")
def unwritten_is_nan() -> Callable:
    """`with unwritten_is_nan():` see filled_with_nan."""
    return filled_with_nan


@pytest.fixture(scope="session")
def laid_out() -> Callable[[Tensor, str], Tensor]:
    """`laid_out(values, layout)`: see strided."""
    return strided


@pytest.fixture(scope="session")
def draw() -> Callable[..., list[Tensor]]:
    """`draw(dtype, **sizes)`: see draw_tensors."""
    return draw_tensors


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., dict[str, Tensor]]:
    """`settings_of(kind, keys)`: see settings_for."""
    return settings_for


@pytest.fixture(scope="session")
def attend() -> Callable[..., list[Tensor]]:
    """`attend(given, settings, splits)`: see attend_and_derive."""
    return attend_and_derive


@pytest.fixture(scope="session")
def same_bits() -> Callable[..., bool]:
    """`same_bits(left, right)`: whether two sequences of tensors are equal, one by one."""
    return lambda left, right: all(torch.equal(one, other) for one, other in zip(left, right, strict=True))
