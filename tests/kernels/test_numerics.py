"""Flash cross-attention through Triton's interpreter against the specification in fp64, over sampled cases.

The error is at most twice that of plain PyTorch in the same dtype, three times for gradients, and what rounding may
cost whatever the order of sums (mm.kernels.accuracy). What must not be read is NaN: padded keys, gaps between strided
rows, outputs before the launch.
"""

# Tuples are built by generators, whose length pyright does not know.

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mm.kernels.accuracy import BACKWARD, FORWARD, allowed_error, error, rounding
from mm.kernels.cross_attention import flash_cross_attention
from mm.kernels.reference import reference_attention
from mm.kernels.tuning import Tile, forced

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WIDTHS = (16, 32, 64, 40, 80, 128, 96, 64, 256, 16, 72, 48, 64, 160, 5, 192, 32, 24)
GROUPS = (1, 2, 3, 4, 8)
TILES = ((16, 16), (16, 32), (16, 64), (32, 32), (64, 32), (32, 16))
LAYOUTS = ("dense", "heads inside", "gaps", "columns", "fused", "shared")
PER_TEST = 10
FAST, FULL = 5, 215  # tests of PER_TEST cases each; the full ones are others than the fast ones


@dataclass(frozen=True)
class Case:
    """One call. Everything that is random in it follows from the seed."""

    seed: int
    dtype: torch.dtype
    width: int
    kv_heads: int
    groups: int
    queries: tuple[int, ...]  # of each context
    ragged: bool
    keys: int
    lengths: tuple[int, ...] | None
    mask: str | None  # "random", "first keys hidden", "a context without keys"
    ranges: bool
    query_layout: str
    kv_layout: str
    scale: float | None
    spread: float  # standard deviation of the queries: 1 is ordinary, 12 lets one key take all
    tile: tuple[int, int]  # packed queries and keys of a block
    table: bool  # the tiles of mm.kernels.tuning instead
    lean: bool
    splits: int
    mass: bool
    backward: bool

    @property
    def contexts(self) -> int:
        return len(self.queries)

    @property
    def packed(self) -> tuple[int, int]:
        """The first and third size of the query."""
        return (1, sum(self.queries)) if self.ragged else (self.contexts, self.queries[0])

    def rows(self, tensor: Tensor) -> list[Tensor]:
        """A tensor (B, H, M, ...) or, ragged, (1, H, M, ...) cut into the contexts (H, M, ...)."""
        return list(tensor[0].split(self.queries, 1) if self.ragged else tensor)


class Inputs(NamedTuple):
    given: tuple[Tensor, Tensor, Tensor]  # query, key, value as the kernels get them
    clean: tuple[Tensor, Tensor, Tensor]  # the same, with zeros instead of what must not be read
    settings: dict
    seen: list[Tensor]  # for each context: bool (M, N), which keys its queries may see
    d_output: Tensor
    d_lse: Tensor


def draw_case(seed: int) -> Case:
    choose = random.Random(seed)
    groups, tile = choose.choice(GROUPS), choose.choice(TILES)
    contexts, ragged = choose.choice((1, 1, 2, 2, 3)), choose.random() < 0.3
    keys = max(0, choose.choice((0, 1, 1, 2, 3)) * tile[1] + choose.choice((-1, 0, 1, choose.randrange(tile[1]))))
    edges = (0, 1, tile[1] - 1, tile[1], tile[1] + 1, keys - 1, keys, choose.randrange(keys + 1))
    lengths = tuple(choose.choice([edge for edge in edges if 0 <= edge <= keys]) for _ in range(contexts))
    rows = (1, 2, 3, 5, tile[0] // groups, tile[0] // groups + 1, 2 * tile[0] // groups - 1)
    queries = tuple(choose.choice((0, *rows) if ragged else rows) for _ in range(contexts))
    return Case(
        seed=seed,
        dtype=DTYPES[seed % 3],
        width=WIDTHS[seed // 3 % len(WIDTHS)],
        kv_heads=choose.choice((1, 1, 2)),
        groups=groups,
        queries=queries if ragged else queries[:1] * contexts,
        ragged=ragged,
        keys=keys,
        lengths=lengths if choose.random() < 0.6 else None,
        mask=choose.choice((None, None, None, "random", "first keys hidden", "a context without keys")),
        ranges=choose.random() < 0.25,
        query_layout=choose.choice(LAYOUTS[:4]),
        kv_layout=choose.choice(LAYOUTS),
        scale=choose.choice((None, None, None, 0.3, 1.0)),
        spread=choose.choice((1.0, 1.0, 1.0, 0.1, 12.0)),
        tile=tile,
        table=choose.random() < 0.15,
        lean=choose.random() < 0.5,
        splits=choose.choice((1, 1, 2, 3, 4)),
        mass=choose.random() < 0.3,
        backward=choose.random() < 0.4,
    )


def draw_inputs(case: Case, laid_out: Callable[[Tensor, str], Tensor]) -> Inputs:
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    batch, queries = case.packed
    shape = (case.contexts, case.kv_heads, case.keys, case.width)
    query = (case.spread * normal(batch, case.kv_heads * case.groups, queries, case.width)).to(case.dtype)
    key, value = normal(*shape).to(case.dtype), normal(*shape).to(case.dtype)
    if case.kv_layout == "shared":
        key, value = (tensor[:1].expand(shape) for tensor in (key, value))
    settings = draw_settings(case, generator)
    real, seen = visible(case, settings)
    return Inputs(
        (laid_out(query, case.query_layout), *laid_out_pair(key, value, real, case.kv_layout, laid_out)),
        (query, *(tensor.masked_fill(~real[:, None, :, None], 0.0) for tensor in (key, value))),
        settings,
        seen,
        laid_out(normal(*query.shape).to(case.dtype), LAYOUTS[case.seed % 4]),
        normal(*query.shape[:3]),
    )


def draw_settings(case: Case, generator: torch.Generator) -> dict:
    """The keyword arguments of the call, but for what it shall return."""

    def integers(values):
        return torch.as_tensor(values).to(torch.int64 if case.seed % 2 else torch.int32)

    settings = {"scale": case.scale, "key_lengths": None, "key_mask": None, "row_ranges": None, "cu_rows": None}
    if case.lengths is not None:
        settings["key_lengths"] = integers(case.lengths)
    if case.mask is not None:
        settings["key_mask"] = torch.rand(case.contexts, case.keys, generator=generator) < 0.6
        if case.mask == "first keys hidden":
            settings["key_mask"][:, : case.tile[1]] = False
        if case.mask == "a context without keys":
            settings["key_mask"][-1] = False
    if case.ranges:
        low, size = (torch.randint(0, case.keys + 1, case.packed, generator=generator) for _ in range(2))
        settings["row_ranges"] = integers(torch.stack([low, (low + size).clamp(max=case.keys)], -1))
    if case.ragged:
        settings["cu_rows"] = integers([sum(case.queries[:context]) for context in range(case.contexts + 1)])
    return settings


def visible(case: Case, settings: dict) -> tuple[Tensor, list[Tensor]]:
    """Which keys are real, bool (B, N), and for each context which of them its queries may see, bool (M, N)."""
    place = torch.arange(case.keys)
    real = torch.ones(case.contexts, case.keys, dtype=torch.bool)
    if settings["key_lengths"] is not None:
        real &= place < settings["key_lengths"][:, None]
    if settings["key_mask"] is not None:
        real &= settings["key_mask"]
    seen = [one.expand(queries, -1) for one, queries in zip(real, case.queries, strict=True)]
    if settings["row_ranges"] is not None:
        ranges = case.rows(settings["row_ranges"][:, None])
        seen = [
            one & (place >= low_high[0, :, :1]) & (place < low_high[0, :, 1:])
            for one, low_high in zip(seen, ranges, strict=True)
        ]
    return real, seen


def laid_out_pair(key: Tensor, value: Tensor, real: Tensor, layout: str, laid_out) -> tuple[Tensor, Tensor]:
    """Key and value with NaN wherever no query may look, in the layout of the case."""
    if layout == "shared":  # one context for all, by stride 0: what one may not see another may
        return key[:1].contiguous().expand_as(key), value[:1].contiguous().expand_as(value)
    key, value = (tensor.masked_fill(~real[:, None, :, None], float("nan")) for tensor in (key, value))
    if layout == "fused":  # (B, N, 2, H, D), as one projection gives them
        both = torch.stack([key, value], 2).permute(0, 3, 2, 1, 4).contiguous()
        return both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2)
    return laid_out(key, layout), laid_out(value, layout)


def by_name(case: Case, inputs: Inputs, attended: tuple, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Output, lse and mass (None if not asked for), and with `case.backward` the gradients."""
    output, lse, mass = attended
    results = {"output": output, "lse": lse, "mass": mass}
    if case.backward:
        weights = (inputs.d_output.to(output.dtype), inputs.d_lse.to(lse.dtype))
        found = torch.autograd.grad((output, lse), tensors, weights)
        results.update(zip(("d_query", "d_key", "d_value"), found, strict=True))
    return {name: result.detach() for name, result in results.items() if result is not None}


def through_kernels(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    tensors = tuple(tensor.detach().requires_grad_(case.backward) for tensor in inputs.given)
    with forced(tile=None if case.table else Tile(*case.tile, 4, 1, lean=case.lean), splits=case.splits):
        attended = flash_cross_attention(*tensors, **inputs.settings, return_lse=True, return_mass=case.mass)
        return by_name(case, inputs, attended, tensors)


def specified(case: Case, inputs: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = tuple(tensor.to(dtype).requires_grad_() for tensor in inputs.clean)
    return by_name(case, inputs, reference_attention(*tensors, **inputs.settings), tensors)


def faults(case: Case, inputs: Inputs, mine: dict[str, Tensor]) -> list[str]:
    """What is wrong with `mine`, in words."""
    truth, single, plain = (specified(case, inputs, dtype) for dtype in (torch.float64, torch.float32, case.dtype))
    plain |= {"lse": single["lse"], "mass": single["mass"]}
    gradients = (inputs.d_output, inputs.d_lse) if case.backward else ()
    bounds = rounding(*inputs.clean, *gradients, **inputs.settings)
    sees_none = truth["lse"] == -torch.inf
    seen_by_none = truth["mass"].unflatten(1, (case.kv_heads, case.groups)).sum(2) == 0
    zeros = {"output": sees_none, "d_query": sees_none, "d_key": seen_by_none, "d_value": seen_by_none}
    found = []
    for name, result in mine.items():
        expected, other = truth[name], plain[name]
        if result.dtype != other.dtype or result.shape != expected.shape:
            found.append(f"{name} is {result.dtype} {tuple(result.shape)}, not {other.dtype} {tuple(expected.shape)}")
            continue
        if name in zeros and result[zeros[name]].any():
            found.append(f"{name}: not 0 where there is nothing to attend to")
        if name == "lse":
            if not torch.equal(result == -torch.inf, sees_none):
                found.append("lse: -inf elsewhere than at the queries without keys")
            result, expected, other = (one.masked_fill(sees_none, 0.0) for one in (result, expected, other))
        limit = allowed_error(expected, other, BACKWARD if name.startswith("d_") else FORWARD, bounds[name])
        if not error(result, expected) <= limit:
            found.append(f"{name}: error {error(result, expected):.2e}, allowed {limit:.2e}")
    return found


def check(part: int, laid_out, unwritten_is_nan) -> None:
    report = []
    for seed in range(part * PER_TEST, (part + 1) * PER_TEST):
        case = draw_case(seed)
        inputs = draw_inputs(case, laid_out)
        with unwritten_is_nan():
            mine = through_kernels(case, inputs)
        report += [f"{fault}\n    {case}" for fault in faults(case, inputs, mine)]
    assert not report, "\n" + "\n".join(report)


@pytest.mark.parametrize("part", range(FAST))
def test_error_is_at_most_twice_that_of_torch(part, laid_out, unwritten_is_nan):
    check(part, laid_out, unwritten_is_nan)


@pytest.mark.kernel_full
@pytest.mark.parametrize("part", range(FAST, FAST + FULL))
def test_error_is_at_most_twice_that_of_torch_in_two_thousand_cases(part, laid_out, unwritten_is_nan):
    check(part, laid_out, unwritten_is_nan)


def test_the_sample_holds_every_kind_of_case():
    cases = [draw_case(seed) for seed in range(20 * PER_TEST)]
    assert {(case.dtype, case.width) for case in cases} == {(dtype, width) for dtype in DTYPES for width in WIDTHS}
    for dtype in DTYPES:
        mine = [case for case in cases if case.dtype == dtype]
        assert {case.groups for case in mine} == set(GROUPS)
        assert {case.tile for case in mine} == set(TILES)
        assert {case.kv_layout for case in mine} == set(LAYOUTS)
        assert {case.splits for case in mine if case.keys > case.tile[1]} == {1, 2, 3, 4}
        assert [kind for kind in kinds_of(mine[0]) if not any(kinds_of(case)[kind] for case in mine)] == []


def kinds_of(case: Case) -> dict[str, bool]:
    return {
        "backward, tiles of the table": case.backward and case.table,
        "backward, ragged": case.backward and case.ragged,
        "backward, ranges": case.backward and case.ranges,
        "backward, mask": case.backward and case.mask is not None,
        "mass": case.mass,
        "mass, ragged": case.mass and case.ragged,
        "no keys": case.keys == 0,
        "a context without rows": 0 in case.queries,
        "a context without keys": case.lengths is not None and 0 in case.lengths,
        "one more key than a block": case.keys % case.tile[1] == 1,
        "one key less than a block": case.keys % case.tile[1] == case.tile[1] - 1,
        "whole blocks": case.keys > 0 and case.keys % case.tile[1] == 0,
    }
