"""`mm tune`: measures tiles of the attention kernels on this machine's GPU and writes a table of the fastest.

Each measurement is one launch: a kernel, a dtype, a head width and a class of rows, with every candidate tile in turn.
A candidate counts only if it gives the result of the current tile.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import tuning
from ..kernels.accuracy import BACKWARD, FORWARD, allowed_error, error, rounding
from ..kernels.cross_attention import KERNEL_DTYPES, MAX_HEAD_DIM, runs_kernels
from ..kernels.interpreter import HAS_TRITON, IS_INTERPRETED
from ..kernels.reference import reference_attention, reference_backward
from ..kernels.tuning import MANY, Tile
from .long_work import check_new

Timer = Callable[[Callable[[], object]], float]  # a call -> milliseconds
KERNELS = tuple(tuning.TABLE)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in KERNEL_DTYPES}
ROW_CLASSES = {"16": 16, "64": 64, "many": MANY}
MARGIN = 0.02  # a candidate must be so much faster than the tile in force: less is within what medians vary by


@dataclass(frozen=True)
class Target:
    """One entry of the table. rows: the most packed rows that it is for."""

    kernel: str
    dtype: torch.dtype
    head_dim: int
    rows: int

    def __str__(self) -> str:
        rows = "many rows" if self.rows == MANY else f"up to {self.rows} rows"
        return f"{self.kernel}, {str(self.dtype).removeprefix('torch.')}, head width {self.head_dim}, {rows}"


class Work(NamedTuple):
    """The sizes that a class of rows is measured with; queries = packed rows per context and key head."""

    contexts: int
    heads: int
    queries: int
    keys: int


WORK = {16: Work(8, 12, 16, 1024), 64: Work(8, 12, 64, 1024), MANY: Work(4, 12, 512, 1024)}


class Grid(NamedTuple):
    """Candidates: every combination of these."""

    block_m: dict[int, tuple[int, ...]]  # by class of rows
    block_n: tuple[int, ...]
    warps: tuple[int, ...]
    stages: tuple[int, ...]
    lean: tuple[bool, ...] = (True,)


_OVER_ROWS = {16: (16,), 64: (32, 64), MANY: (64, 128)}  # a program owns rows and walks over keys
_OVER_KEYS = {16: (16,), 64: (16, 32, 64), MANY: (16, 32, 64)}  # a program owns keys and walks over rows
GRIDS = {
    "forward": Grid(_OVER_ROWS, (32, 64, 128), (2, 4, 8), (2, 3, 4), (True, False)),
    "dq": Grid(_OVER_ROWS, (16, 32, 64), (4, 8), (1, 2, 3)),
    "dkdv": Grid(_OVER_KEYS, (32, 64, 128), (4, 8), (1, 2, 3)),
    "mass": Grid(_OVER_KEYS, (32, 64, 128), (4, 8), (2, 3)),
}
RESULTS = {"forward": ("output", "lse"), "dq": ("d_query",), "dkdv": ("d_key", "d_value"), "mass": ("mass",)}


def candidates(target: Target) -> Iterator[Tile]:
    """The tiles to try. fp32 takes twice the shared memory, so half the keys; what still does not fit is dropped when
    it fails to launch."""
    grid = GRIDS[target.kernel]
    shrink = 2 if target.dtype == torch.float32 else 1
    block_n = sorted({max(16, keys // shrink) for keys in grid.block_n})
    for shape in itertools.product(grid.block_m[target.rows], block_n, grid.warps, grid.stages, grid.lean):
        *numbers, lean = shape
        yield Tile(*numbers, lean=lean)


# -- one launch -------------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """Random states and the other inputs of the kernels; output and lse are the forward's."""

    query: Tensor  # (B, H, M, D)
    key: Tensor  # (B, H, N, D)
    value: Tensor
    grad: Tensor  # of the output
    lengths: Tensor  # int32 (B,), each inside a block of keys
    scale: float
    output: Tensor
    lse: Tensor


def draw(target: Target, device: torch.device, work: Work) -> Problem:
    """The same numbers every time."""
    generator = torch.Generator(device).manual_seed(0)

    def states(length: int) -> Tensor:
        shape = (work.contexts, length, work.heads, target.head_dim)
        return torch.randn(shape, generator=generator, device=device).to(target.dtype).transpose(1, 2)

    query, grad = states(work.queries), states(work.queries)
    key, value = states(work.keys), states(work.keys)
    lengths = work.keys - 1 - torch.arange(work.contexts, dtype=torch.int32, device=device) % (work.keys - 1)
    scale = target.head_dim**-0.5
    output, lse = _launched("forward", Problem(query, key, value, grad, lengths, scale, query, query))
    return Problem(query, key, value, grad, lengths, scale, output, lse)


def _launched(kernel: str, problem: Problem) -> tuple[Tensor, ...]:
    """What a kernel computes, without the ops around it, whose time on the CPU is no tile's. The kernels of the
    gradients run together: what the others of them take is the same for every candidate."""
    from ..kernels import launch  # with Triton, which need not be installed for the rest

    query, key, value, grad, lengths, scale, output, lse = problem
    visible = launch.Visible(lengths, None, None, None)
    if kernel == "forward":
        return launch.forward(query, key, value, visible, scale)
    if kernel == "mass":
        return (launch.mass(query, key, lse, visible, scale),)
    gradients = launch.backward(grad, None, query, key, value, output, lse, visible, scale)
    return gradients[:1] if kernel == "dq" else gradients[1:]


def _truth(kernel: str, problem: Problem) -> tuple[Tensor, ...]:
    """The same in fp64, by the specification."""
    query, key, value, grad = (tensor.double() for tensor in problem[:4])
    given = {"key_lengths": problem.lengths, "scale": problem.scale}
    output, lse, mass = reference_attention(query, key, value, **given)
    if kernel == "forward":
        return output, lse
    if kernel == "mass":
        return (mass,)
    gradients = reference_backward(grad, None, query, key, value, output, lse, **given)
    return gradients[:1] if kernel == "dq" else gradients[1:]


@contextmanager
def _unwritten_is_nan() -> Iterator[None]:
    """New memory is NaN: without it, a candidate that writes nothing finds the right results of the one before."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class Judge:
    """Knows the truth of a problem and the error of the tile in force, and says what is wrong with another tile."""

    def __init__(self, kernel: str, problem: Problem):
        self.kernel, self.problem = kernel, problem
        factor = FORWARD if kernel == "forward" else BACKWARD
        self.truths = _truth(kernel, problem)
        bounds = rounding(*problem[:4], key_lengths=problem.lengths, scale=problem.scale)
        in_force = zip(self.truths, _launched(kernel, problem), RESULTS[kernel], strict=True)
        self.limits = [allowed_error(truth, result, factor, bounds[name]) for truth, result, name in in_force]

    def fault(self) -> str | None:
        """Why the tile that is forced now cannot be used; None: it can."""
        try:
            with _unwritten_is_nan():
                results = _launched(self.kernel, self.problem)
        except _refusals() as refusal:
            if self.problem.query.is_cuda:
                torch.cuda.synchronize()  # raises if the GPU itself failed: nothing measured after that would be true
            return f"does not run: {type(refusal).__name__}: {str(refusal).strip().partition(chr(10))[0]}"
        for result, truth, limit in zip(results, self.truths, self.limits, strict=True):
            off = error(result, truth)
            if not off <= limit:
                return f"wrong: error {off:.1e} beside {limit:.1e} that rounding explains"
        return None


def _refusals() -> tuple[type[Exception], ...]:
    """How Triton says that a tile does not compile or fit."""
    from triton import TritonError

    return TritonError, RuntimeError, ValueError


# -- the search -------------------------------------------------------------------------------------------------------


def fastest(
    target: Target, problem: Problem, tiles: Iterable[Tile], timer: Timer, say: Callable[[str], object]
) -> Tile:
    """The fastest right tile of `tiles` and the one in force, which a candidate must beat by MARGIN."""

    def run() -> object:
        return _launched(target.kernel, problem)

    judge = Judge(target.kernel, problem)
    best = in_force = tuning.tile(
        target.kernel, tuning.machine(problem.query.device)[0], target.dtype.itemsize, target.head_dim, target.rows
    )
    standard = shortest = timer(run)
    say(f"  {_named(in_force)}: {1e3 * standard:.1f} us, in force")
    for tile in tiles:
        if tile == in_force:
            continue
        with tuning.forced(tile={target.kernel: tile}):
            fault = judge.fault()
            if fault is not None:
                say(f"  {_named(tile)}: dropped, {fault}")
                continue
            time = timer(run)
        if time < min(shortest, (1 - MARGIN) * standard):
            best, shortest = tile, time
            say(f"  {_named(tile)}: {1e3 * time:.1f} us")
    return best


def _named(tile: Tile) -> str:
    lean = "" if tile.lean else ", not lean"
    return f"{tile.block_m}x{tile.block_n}, {tile.num_warps} warps, {tile.num_stages} stages{lean}"


def search(
    targets: Sequence[Target],
    device: torch.device,
    timer: Timer,
    say: Callable[[str], object],
    *,
    propose: Callable[[Target], Iterable[Tile]] = candidates,
    work: dict[int, Work] = WORK,
) -> Iterator[tuple[tuple, Tile]]:
    """(key of the table, fastest tile) of each target, in their order."""
    arch = tuning.nearest_arch(tuning.machine(device)[0])
    for number, target in enumerate(targets, 1):
        tiles = list(propose(target))
        say(f"{number}/{len(targets)} {target}: {len(tiles)} tiles")
        problem = draw(target, device, work[target.rows])
        tile = fastest(target, problem, tiles, timer, say)
        yield (target.kernel, arch, target.dtype.itemsize, tuning.padded_head(target.head_dim), target.rows), tile


# -- the command ------------------------------------------------------------------------------------------------------


def tune(
    output: Path,
    *,
    head_dims: str = "64",
    dtypes: str = "bfloat16",
    kernels: str = ",".join(KERNELS),
    rows: str = ",".join(ROW_CLASSES),
    say: Callable[[str], object],
) -> None:
    """Measures on the current GPU and writes `output`, again after every entry; `say` is given the report, by lines.

    Args:
        output: a new file.
        head_dims, dtypes, kernels, rows: lists with commas, of 1..256, DTYPES, KERNELS and ROW_CLASSES.

    Raises:
        ValueError: a wrong argument, a file that already exists, or no GPU that the kernels run on.
    """
    targets = parse_targets(head_dims, dtypes, kernels, rows)
    check_new(output, "OUT")
    if not output.parent.is_dir():
        raise ValueError(f"no folder {str(output.parent)!r} to write {output.name!r} into")
    device = _gpu()
    versions = {name: version(name) for name in ("torch", "triton")} | {"mm": version("mm-transformers")}
    measured = {}
    with torch.cuda.device(device):
        for key, tile in search(targets, device, _timer(), say):
            measured[key] = tile
            tuning.write_table(output, torch.cuda.get_device_name(device), versions, measured)
    say(f"{len(measured)} entries are in {output}; to use them: export {tuning.TABLE_VARIABLE}={output.resolve()}")


def parse_targets(head_dims: str, dtypes: str, kernels: str, rows: str) -> list[Target]:
    """Every combination. Raises ValueError for unknown names, and for two that would be one entry."""
    accepted_widths = {str(width): width for width in range(1, MAX_HEAD_DIM + 1)}
    widths = _chosen("head-dims", head_dims, accepted_widths, f"1..{MAX_HEAD_DIM}")
    types = _chosen("dtypes", dtypes, DTYPES)
    names = _chosen("kernels", kernels, dict(zip(KERNELS, KERNELS, strict=True)))
    classes = _chosen("rows", rows, ROW_CLASSES)
    _no_two("head-dims", widths, tuning.padded_head, "padded to the same width")
    _no_two("dtypes", types, lambda dtype: dtype.itemsize, "of one size")
    return [Target(*chosen) for chosen in itertools.product(names, types, widths, classes)]


def _chosen(option: str, text: str, accepted: dict, described: str | None = None) -> list:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in accepted]
    if unknown:
        known = described or ", ".join(accepted)
        raise ValueError(f"--{option} {unknown[0]!r} is not known; give some of {known}, with commas between")
    return [accepted[name] for name in dict.fromkeys(names)]


def _no_two(option: str, values: list, entry: Callable, reason: str) -> None:
    for one, other in itertools.combinations(values, 2):
        if entry(one) == entry(other):
            one, other = (str(value).removeprefix("torch.") for value in (one, other))
            raise ValueError(f"--{option}: {one} and {other} share the table's entries, being {reason}; name one")


def _gpu() -> torch.device:
    """The current GPU. Raises ValueError, in a sentence, where the kernels cannot be measured."""
    if not torch.cuda.is_available():
        raise ValueError("tuning measures on an NVIDIA GPU, and torch.cuda.is_available() is False here")
    if not HAS_TRITON:
        raise ValueError("tuning needs Triton, which is not installed: pip install triton")
    if IS_INTERPRETED:
        raise ValueError("TRITON_INTERPRET=1 runs the kernels on the CPU, where their time says nothing; unset it")
    device = torch.device("cuda", torch.cuda.current_device())
    if not runs_kernels(torch.empty(0, device=device)):
        raise ValueError(f"the kernels need compute capability 8.0 or newer; {torch.cuda.get_device_name()} has less")
    return device


def _timer() -> Timer:
    """Medians, the second-level cache emptied before every launch."""
    from triton.testing import do_bench

    return lambda run: float(do_bench(run, warmup=10, rep=50, return_mode="median"))  # type: ignore[arg-type]
