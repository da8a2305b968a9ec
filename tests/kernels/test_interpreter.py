"""The arithmetic that the kernel tests run on: the interpreter of conftest.py against torch and against fp64."""

# The parameters of a kernel have no types that pyright knows.

import pytest
import torch
import triton
import triton.language as tl

GENERATOR = torch.Generator().manual_seed(0)
EVERY_BF16 = torch.arange(65536).to(torch.int32).to(torch.int16).view(torch.bfloat16)
HALVES = [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF]  # below, at and above the middle between two bf16 numbers
FP32 = torch.cat([(torch.arange(65536) << 16 | low).to(torch.int64).to(torch.int32) for low in HALVES]).view(
    torch.float32
)


@triton.jit
def copy(source, target, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(target + place, tl.load(source + place).to(target.dtype.element_ty))


@triton.jit
def combine(left, right, sums, products, larger, less, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    x, y = tl.load(left + place), tl.load(right + place)
    tl.store(sums + place, x + y)
    tl.store(products + place, x * y)
    tl.store(larger + place, tl.maximum(x, y))
    tl.store(less + place, x < y)


@triton.jit
def multiply(left, right, target, SIZE: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr):
    place, inner = tl.arange(0, SIZE), tl.arange(0, INNER)
    x = tl.load(left + place[:, None] * INNER + inner[None, :])
    y = tl.load(right + inner[:, None] * SIZE + place[None, :])
    tl.store(target + place[:, None] * SIZE + place[None, :], tl.dot(x, y, input_precision=PRECISION))


def copied(source, dtype):
    target = torch.empty(source.shape, dtype=dtype)
    for first in range(0, len(source), 65536):
        copy[(1,)](source[first : first + 65536], target[first : first + 65536], SIZE=65536)
    return target


def product(left, right, precision="tf32"):
    target = torch.empty(len(left), len(left))
    multiply[(1,)](left, right, target, SIZE=len(left), INNER=left.shape[1], PRECISION=precision)
    return target.double()


def matrices(dtype, inner=64):
    return (torch.randn(*shape, generator=GENERATOR).to(dtype) for shape in ((32, inner), (inner, 32)))


def test_fp32_becomes_bf16_as_in_torch():
    mine, truth = copied(FP32, torch.bfloat16), FP32.to(torch.bfloat16)
    assert torch.equal(mine.isnan(), truth.isnan())
    numbers = ~truth.isnan()
    assert torch.equal(mine[numbers].view(torch.int16), truth[numbers].view(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_every_bf16_becomes_wider_as_in_torch(dtype):
    torch.testing.assert_close(copied(EVERY_BF16, dtype), EVERY_BF16.to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_numbers_become_bf16_as_in_torch(dtype):
    source = torch.randn(65536, generator=GENERATOR).to(dtype)
    torch.testing.assert_close(copied(source, torch.bfloat16), source.to(torch.bfloat16), rtol=0, atol=0)


def test_bf16_is_computed_as_in_torch():
    x, y = (torch.randn(65536, generator=GENERATOR).to(torch.bfloat16) for _ in range(2))
    sums, products, larger = (torch.empty_like(x) for _ in range(3))
    less = torch.empty(65536, dtype=torch.bool)
    combine[(1,)](x, y, sums, products, larger, less, SIZE=65536)
    for mine, truth in ((sums, x + y), (products, x * y), (larger, torch.maximum(x, y)), (less, x < y)):
        torch.testing.assert_close(mine, truth, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_short_numbers_are_summed_in_fp32(dtype):
    left, right = matrices(dtype)
    bound = 64 * 2.0**-24 * (left.double().abs() @ right.double().abs())  # one rounding to fp32 per term
    assert ((product(left, right) - left.double() @ right.double()).abs() <= bound).all()


def test_products_of_fp32_have_the_precision_that_a_kernel_asks_for():
    left, right = matrices(torch.float32)
    truth, size = left.double() @ right.double(), left.double().abs() @ right.double().abs()
    error = {name: (product(left, right, name) - truth).abs() for name in ("ieee", "tf32x3", "tf32")}
    assert (error["ieee"] <= 64 * 2.0**-24 * size).all()
    assert (error["tf32x3"] <= (64 * 2.0**-24 + 3 * 2.0**-22) * size).all()
    assert (error["tf32"] <= 2.0**-8 * size).all() and (error["tf32"] > error["tf32x3"].max()).any()
