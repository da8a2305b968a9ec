"""How tests compare: what was copied bit by bit, what was computed within rounding.

The order of the sums in a matrix product follows from the CPU, the shapes and the addresses of the operands. So two
modules with the same weights agree within rounding and no better, and so do a row alone and that row in a batch, even
where one machine happens to give the same bits. `pytest --other-cpu` finds tests that ask for more (other_cpu.py).
"""

import torch
from torch import Tensor, nn

# relative to the largest expected value, or to 1 where that is less: what should be 0 is the rounding of other values
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}


def close(got: Tensor, expected: Tensor, bound: float | None = None) -> None:
    """Equal shapes and dtypes, and values that differ by rounding alone; numbers that are not floats are equal."""
    if not expected.is_floating_point():
        assert torch.equal(got, expected)
        return
    finite = expected[expected.isfinite()]
    largest = max(1.0, finite.abs().max().item()) if finite.numel() else 1.0
    bound = ROUNDING[expected.dtype] if bound is None else bound
    torch.testing.assert_close(got, expected, rtol=0, atol=bound * largest)


def same_weights(one: nn.Module | dict[str, Tensor], other: nn.Module | dict[str, Tensor]) -> None:
    """Equal names, dtypes and bits, buffers too."""
    left, right = (x.state_dict() if isinstance(x, nn.Module) else x for x in (one, other))
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype and torch.equal(value, right[name]), name
