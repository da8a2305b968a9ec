"""The rule by which kernels are judged: what rounding costs passes on every CPU, what is wrong does not."""

import pytest
import torch

from mm.kernels.accuracy import BACKWARD, FORWARD, allowed_error, error, largest, rounding
from mm.kernels.reference import reference_attention, reference_backward

NAMES = ("output", "lse", "mass", "d_query", "d_key", "d_value")
KINDS = ["all keys", "lengths", "mask", "ranges", "everything", "ragged"]


def by_formulas(given, d_output, d_lse, settings) -> dict[str, torch.Tensor]:
    """The specification, with gradients by the formulas of flash attention: they take differences of sums where
    autograd has an exact 0. Rows without keys have an lse of 0."""
    attended = reference_attention(*given, **settings)
    gradients = reference_backward(d_output, d_lse, *given, attended.output, attended.lse, **settings)
    output, lse, mass = attended
    return dict(zip(NAMES, (output, lse.masked_fill(lse == -torch.inf, 0.0), mass, *gradients), strict=True))


@pytest.fixture
def problem(draw, settings_of):
    """`problem(kind, spread)`: what by_formulas takes, in fp32, and the truth of it."""

    def build(kind, spread=1.0):
        given, settings = draw(ragged=kind == "ragged"), settings_of(kind)
        given[0] = spread * given[0]
        generator = torch.Generator().manual_seed(2)
        weights = [torch.randn(shape, generator=generator) for shape in (given[0].shape, given[0].shape[:3])]
        exact = by_formulas([one.double() for one in given], *(one.double() for one in weights), settings)
        return (given, *weights, settings), exact

    return build


@pytest.mark.parametrize("spread", [0.1, 1.0, 12.0])
@pytest.mark.parametrize("kind", KINDS)
def test_fp32_is_within_what_rounding_may_cost(kind, spread, problem):
    (given, *weights, settings), exact = problem(kind, spread)
    bounds, plain = rounding(*given, *weights, **settings), by_formulas(given, *weights, settings)
    for name in NAMES:
        assert error(plain[name], exact[name]) <= largest(bounds[name]), name


FAULTS = {  # what is given -> what is given instead
    "scale": lambda given, settings: (given, {**settings, "scale": 1.0001 * 40**-0.5}),
    "a key": lambda given, settings: (given, {**settings, "key_lengths": torch.tensor([36, 20])}),
    "short factors": lambda given, settings: ([one.bfloat16().float() for one in given], settings),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_beyond_it(fault, problem):
    (given, *weights, settings), exact = problem("lengths")
    plain, bounds = by_formulas(given, *weights, settings), rounding(*given, *weights, **settings)
    wrong, changed = FAULTS[fault](given, settings)
    mine = by_formulas(wrong, *weights, changed)
    for name in NAMES:
        factor = BACKWARD if name.startswith("d_") else FORWARD
        assert error(mine[name], exact[name]) > allowed_error(exact[name], plain[name], factor, bounds[name]), name


def test_a_query_without_keys_may_not_err(problem):
    (given, *weights, _), _ = problem("all keys")
    bounds = rounding(*given, *weights, key_lengths=torch.tensor([0, 37]))
    for name in NAMES:
        assert not bounds[name][0].any() and (bounds[name][1] > 0).all(), name
