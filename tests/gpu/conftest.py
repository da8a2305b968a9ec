"""What the tests on a GPU share. They are run by `pytest -m gpu`, and fail where there is none.

MM_GPU_TESTS_ON_CPU=1 TRITON_INTERPRET=1 runs them on the CPU, smaller and without bf16: so whoever changes a kernel
without a GPU at hand finds a test that is broken itself.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from mm.kernels.accuracy import BACKWARD, FORWARD, allowed_error, error, rounding
from mm.kernels.cross_attention import flash_cross_attention
from mm.kernels.interpreter import IS_INTERPRETED
from mm.kernels.reference import reference_attention

ON_CPU = os.environ.get("MM_GPU_TESTS_ON_CPU") == "1"
CONTEXTS = 3
TF32X3 = 4.0  # fp32 as three products of TF32 is exact to 22 bits, where fp32 itself has 24
NAMES = ("output", "lse", "mass", "d_query", "d_key", "d_value")


class Sizes(NamedTuple):
    """queries and keys of an ordinary call, and of a long one."""

    queries: int
    keys: int
    many_queries: int
    many_keys: int


class Call(NamedTuple):
    """What flash_cross_attention is given, and the weights that make a loss of its output and lse."""

    given: list[Tensor]
    settings: dict[str, Any]
    weights: tuple[Tensor, Tensor]


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    if ON_CPU:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.fail("tests marked gpu want an NVIDIA GPU, and torch.cuda.is_available() is False", pytrace=False)
    if IS_INTERPRETED:
        pytest.fail("TRITON_INTERPRET is 1, so no kernel would reach the GPU: set it to 0", pytrace=False)
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session")
def sizes() -> Sizes:
    return Sizes(20, 150, 40, 300) if ON_CPU else Sizes(100, 577, 2048, 6404)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that takes a dtype is run in each. The interpreter computes no bf16 as it comes."""
    if "dtype" in metafunc.fixturenames:
        dtypes = [torch.float16, torch.float32] if ON_CPU else [torch.float16, torch.bfloat16, torch.float32]
        metafunc.parametrize("dtype", dtypes, ids=lambda dtype: str(dtype).removeprefix("torch."))


def settings_of(kind: str, queries: int, keys: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Keyword arguments for three contexts; the last has no keys by its length, or no rows if they are ragged."""
    settings: dict[str, Tensor] = {}
    if kind in ("lengths", "everything", "ragged"):
        settings["key_lengths"] = torch.tensor([keys, keys // 2 + 1, 0 if kind != "ragged" else keys // 3])
    if kind in ("mask", "everything", "ragged"):
        settings["key_mask"] = torch.rand(CONTEXTS, keys, generator=generator) < 0.7
    if kind in ("ranges", "everything", "ragged"):
        rows = (1, CONTEXTS * queries) if kind == "ragged" else (CONTEXTS, queries)
        low, size = (torch.randint(keys + 1, rows, generator=generator) for _ in range(2))
        settings["row_ranges"] = torch.stack([low, (low + size).clamp(max=keys)], -1)
    if kind == "ragged":
        settings["cu_rows"] = torch.tensor([0, queries + 1, queries + 1, CONTEXTS * queries])
    return settings


@pytest.fixture
def call(device) -> Callable[..., Call]:
    """`call(dtype, width, kind, queries, keys)`: the same numbers every time."""

    def draw(dtype, width=64, kind="lengths", queries=5, keys=70, kv_heads=2, group=2) -> Call:
        generator = torch.Generator().manual_seed(0)
        batch, rows = (1, CONTEXTS * queries) if kind == "ragged" else (CONTEXTS, queries)

        def states(batch, heads, length):
            drawn = torch.randn(batch, length, heads, width, generator=generator)
            return drawn.to(device, dtype).transpose(1, 2)

        given = [states(batch, kv_heads * group, rows), *(states(CONTEXTS, kv_heads, keys) for _ in range(2))]
        settings = {name: value.to(device) for name, value in settings_of(kind, queries, keys, generator).items()}
        of_lse = torch.randn(batch, kv_heads * group, rows, generator=generator).to(device)
        return Call(given, settings, (states(batch, kv_heads * group, rows), of_lse))

    return draw


def results(function: Callable[..., Any], call: Call) -> dict[str, Tensor]:
    """By name: output, lse, mass and the gradients of query, key and value."""
    given = [tensor.detach().requires_grad_() for tensor in call.given]
    output, lse, mass = function(*given, **call.settings)
    weights = [weight.to(part) for weight, part in zip(call.weights, (output, lse), strict=True)]
    gradients = torch.autograd.grad((output, lse), given, weights)
    return dict(zip(NAMES, (tensor.detach() for tensor in (output, lse, mass, *gradients)), strict=True))


def kernel_results(call: Call) -> dict[str, Tensor]:
    return results(
        lambda *given, **rest: flash_cross_attention(*given, **rest, return_lse=True, return_mass=True), call
    )


def on_the_cpu(call: Call, dtype: torch.dtype) -> Call:
    given = [tensor.cpu().to(dtype) for tensor in call.given]
    of_output, of_lse = (weight.cpu() for weight in call.weights)
    return Call(given, {name: value.cpu() for name, value in call.settings.items()}, (of_output, of_lse))


@pytest.fixture(scope="session")
def compute() -> Callable[[Call], dict[str, Tensor]]:
    """`compute(call)`: everything that the kernels give, by name."""
    return kernel_results


@pytest.fixture(scope="session")
def assert_right() -> Callable[..., None]:
    """`assert_right(call)`: the kernels are as near to fp64 as plain PyTorch in the same dtype, in the sense of
    mm.kernels.accuracy, and exactly 0 where a row has no key."""

    def check(call: Call) -> None:
        dtype = call.given[0].dtype
        mine = {name: value.cpu() for name, value in kernel_results(call).items()}
        truths, plain, single = (
            results(reference_attention, on_the_cpu(call, of)) for of in (torch.float64, dtype, torch.float32)
        )
        same = on_the_cpu(call, dtype)
        bounds = rounding(*same.given, *same.weights, **same.settings)
        blind = truths["lse"] == -torch.inf
        assert torch.equal(mine["lse"] == -torch.inf, blind)
        assert not mine["output"][blind].any() and not mine["d_query"][blind].any()
        for name, truth in truths.items():
            wide = name in ("lse", "mass")
            assert mine[name].shape == truth.shape and mine[name].dtype == (torch.float32 if wide else dtype)
            factor = BACKWARD if name.startswith("d_") else FORWARD
            factor *= TF32X3 if wide or dtype == torch.float32 else 1.0
            limit = allowed_error(truth, (single if wide else plain)[name], factor, bounds[name])
            assert error(mine[name], truth) <= limit, f"{name}: {error(mine[name], truth):.2e} > {limit:.2e}"

    return check


@pytest.fixture
def recorded(device) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """`recorded(function)`: replays a CUDA graph of the call and gives what it gave; on a CPU the function itself."""

    def record(function):
        if device.type == "cpu":
            return function
        other = torch.cuda.Stream()
        other.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(other):
            function()
        torch.cuda.current_stream().wait_stream(other)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = function()

        def replay():
            graph.replay()
            return result

        return replay

    return record
