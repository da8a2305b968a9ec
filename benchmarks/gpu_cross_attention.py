"""Flash cross-attention on this machine's GPU and PyTorch's ways to compute the same, in three settings of models.

    python benchmarks/gpu_cross_attention.py             # all; writes benchmarks/results/<device>.json
    python benchmarks/gpu_cross_attention.py --quick     # only bf16, no mask, shorter; writes nothing

Every result is compared with the specification in fp64 first: "error" is its share of what is allowed, twice the error
of plain PyTorch in the same dtype (three times for gradients) and what rounding may cost in any order of sums
(mm.kernels.accuracy). Then the call is timed, the second-level cache emptied before each: 20, 50 and 80 % quantiles of
the call from Python, and (forward) of a CUDA graph of it, which is free of the time that Python takes. All other
columns are of the graph where there is one: "x ours" the time by that of ours, GB/s and TFLOP/s of the bytes and
operations that no implementation can do without (gpu_settings.py), "of roof" how near that is to what the device can
do.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mm.benchmarks.gpu_paths import PATHS, NotThere, Problem, draw, folded
from mm.benchmarks.gpu_paths import Path as Way
from mm.benchmarks.gpu_settings import ROOFS, SETTINGS, VISIBLE, Roof, Setting, cost, shortest_us
from mm.kernels.accuracy import BACKWARD, FORWARD, allowed_error, error, rounding
from mm.kernels.interpreter import IS_INTERPRETED
from mm.kernels.reference import reference_attention

RESULTS = Path(__file__).resolve().parent / "results"
QUANTILES = (0.2, 0.5, 0.8)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PACKAGES = ("mm-transformers", "torch", "triton", "transformers", "flash-attn")
COLUMNS = ("path", "call us", "graph us", "x ours", "GB/s", "TFLOP/s", "of roof", "error")

Call = Callable[[], Any]
Clock = Callable[[Call], list[float]]  # a call -> milliseconds at QUANTILES


class Case(NamedTuple):
    """One table: the same call by every path."""

    setting: Setting
    direction: str
    visible: str
    dtype: str

    def __str__(self) -> str:
        keys = {"all": "all keys", "lengths": "key lengths", "mask": "key mask"}[self.visible]
        return f"{self.setting.name} ({self.setting.shape}), {self.direction}, {keys}, {self.dtype}"


@dataclass
class Row:
    """One path. error: share of the allowed one; times in microseconds at QUANTILES; note: why they are missing."""

    path: str
    error: float | None = None
    call: list[float] | None = None
    graph: list[float] | None = None
    note: str = ""


def cases(dtypes: Sequence[str], visible: Sequence[str], settings: Sequence[Setting] = SETTINGS) -> Iterator[Case]:
    """Every setting forward, and backward where models train it."""
    for setting, dtype, keys in product(settings, dtypes, visible):
        for direction in ("forward", "backward")[: 1 + setting.backward]:
            yield Case(setting, direction, keys, dtype)


# -- what is computed, and whether it is right ------------------------------------------------------------------------


def call_of(way: Way, problem: Problem, direction: str) -> Call:
    """What is timed: the output, or the gradients of query, key and value with the output computed before."""
    if direction == "forward":
        with torch.no_grad():
            states = way.made(problem.states)
        return torch.no_grad()(lambda: way.attend(*states))
    query, key, value = given = [tensor.detach().requires_grad_() for tensor in problem.states]
    output = way.attend(*way.made((query, key, value)))
    grad = way.made((problem.grad, *problem.states[1:]))[0]
    return lambda: torch.autograd.grad(output, given, grad, retain_graph=True)


def specified(problem: Problem, direction: str, dtype: torch.dtype) -> list[Tensor]:
    """The same by the specification, in any dtype."""
    given = [tensor.detach().to(dtype).requires_grad_(direction == "backward") for tensor in problem.states]
    output = reference_attention(*given, key_lengths=problem.lengths).output
    if direction == "forward":
        return [output]
    return list(torch.autograd.grad(output, given, problem.grad.to(dtype)))


class Judge:
    """The truth of a problem, and how far from it a result may be."""

    def __init__(self, problem: Problem, direction: str):
        forward = direction == "forward"
        factor, names = (FORWARD, ["output"]) if forward else (BACKWARD, ["d_query", "d_key", "d_value"])
        self.problem = problem
        self.truths = specified(problem, direction, torch.float64)
        plain = specified(problem, direction, problem.grad.dtype)
        bounds = rounding(*problem.states, None if forward else problem.grad, key_lengths=problem.lengths)
        triples = zip(self.truths, plain, names, strict=True)
        self.limits = [allowed_error(truth, other, factor, bounds[name]) for truth, other, name in triples]

    def share(self, result: Tensor | Sequence[Tensor], is_expanded: bool) -> float:
        """The error by the allowed one, the worst of all results; NaN if a result has one."""
        results = [result] if isinstance(result, Tensor) else list(result)
        if is_expanded and isinstance(result, Tensor):
            results = [folded(result, self.problem.setting)]
        errors = [error(*both) for both in zip(results, self.truths, strict=True)]
        shares = [off / limit if limit else float(off > 0) for off, limit in zip(errors, self.limits, strict=True)]
        return max(shares, key=lambda share: (share != share, share))


# -- the clock --------------------------------------------------------------------------------------------------------


def gpu_clock(quick: bool) -> Clock:
    from triton.testing import do_bench

    warmup, rep = (5, 20) if quick else (25, 200)
    return lambda call: list(do_bench(call, warmup=warmup, rep=rep, quantiles=list(QUANTILES)))  # type: ignore


def replay_of(call: Call) -> Call:
    """The call as one CUDA graph, recorded after it has run and compiled."""
    other, current = torch.cuda.Stream(), torch.cuda.current_stream()
    other.wait_stream(current)
    with torch.cuda.stream(other):
        for _ in range(3):
            call()
    current.wait_stream(other)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measured(
    name: str,
    case: Case,
    problem: Problem,
    judge: Judge,
    clock: Clock,
    replayed: Callable[[Call], Call],
    compiles: bool,
) -> Row:
    """One path: compared, then timed. A failure of ours is raised, that of another path noted."""
    row = Row(name)
    try:
        way = PATHS[name](problem, compiles)
        call = call_of(way, problem, case.direction)
        row.error = judge.share(call(), way.is_expanded and case.direction == "forward")
        row.call = [1e3 * time for time in clock(call)]
        if case.direction == "forward":
            row.graph = [1e3 * time for time in clock(replayed(call))]
    except NotThere as reason:
        row.note = str(reason)
    except (RuntimeError, ValueError, ImportError) as fault:
        if name == "ours":
            raise
        row.note = f"{type(fault).__name__}: {str(fault).strip().partition(chr(10))[0][:200]}"
    return row


def measured_case(
    case: Case, device: torch.device, clock: Clock, replayed=replay_of, compiles: bool = True
) -> list[Row]:
    problem = draw(case.setting, case.visible, DTYPES[case.dtype], device)
    judge = Judge(problem, case.direction)
    return [measured(name, case, problem, judge, clock, replayed, compiles) for name in PATHS]


# -- what is shown and written ----------------------------------------------------------------------------------------


def medians(row: Row, ours: Row) -> tuple[float, float]:
    """Microseconds of a path and of ours, both of graphs if both have one."""
    kind = "graph" if row.graph and ours.graph else "call"
    return getattr(row, kind)[1], getattr(ours, kind)[1]


def table(case: Case, rows: Sequence[Row], roof: Roof) -> Iterator[str]:
    """In Markdown."""
    least = cost(case.setting, case.visible, DTYPES[case.dtype].itemsize, case.direction)
    shortest = shortest_us(least, roof)
    yield f"### {case}"
    yield f"{least.bytes / 1e6:.1f} MB, {least.flop / 1e9:.2f} GFLOP: {shortest:.1f} us at the roof"
    yield ""
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|---" + "|---:" * (len(COLUMNS) - 1) + "|"
    for row in rows:
        if row.call is None:
            yield f"| {row.path} | {row.note} |" + " |" * (len(COLUMNS) - 2)
            continue
        time, of_ours = medians(row, rows[0])
        cells = (
            row.path, _times(row.call), _times(row.graph), f"{time / of_ours:.2f}", f"{least.bytes / time / 1e3:.0f}",
            f"{least.flop / time / 1e6:.1f}", f"{shortest / time:.0%}", f"{row.error:.2f}",
        )  # fmt: skip
        yield "| " + " | ".join(cells) + " |"
    yield ""


def _times(times: list[float] | None) -> str:
    return "" if times is None else " / ".join(f"{time:.1f}" for time in times)


def record(case: Case, rows: Sequence[Row], roof: Roof) -> dict[str, Any]:
    """A case for JSON: the sizes, what the least is, and every path."""
    least = cost(case.setting, case.visible, DTYPES[case.dtype].itemsize, case.direction)
    told = {**case._asdict(), "setting": asdict(case.setting), "least": least._asdict()}
    return told | {"roof_us": shortest_us(least, roof), "paths": [asdict(row) for row in rows]}


def machine() -> dict[str, Any]:
    """What a figure was measured on and with."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": driver(),
        "cuda": torch.version.cuda,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def driver() -> str:
    """The version of NVIDIA's driver, by its own tool."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return "not known"
    return lines[0].strip() if lines else "not known"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def roof_of(device: str, clock: Clock) -> Roof:
    """Of the data sheet; for other devices the speed of copying a GiB, which is less than the memory's."""
    if device in ROOFS:
        return ROOFS[device]
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return Roof(2 * 2**30 / clock(lambda: target.copy_(source))[1] / 1e6, None, "copying a GiB")


def file_name(device: str) -> str:
    """ "NVIDIA A100-SXM4-80GB" -> "nvidia-a100-sxm4-80gb.json"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 if a result of ours is wrong; 2 where there is no GPU to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only bf16, no mask, shorter; writes nothing by itself")
    parser.add_argument("--output", type=Path, help="the JSON file; default: benchmarks/results/<device>.json")
    asked = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.exit(2, "this benchmark measures an NVIDIA GPU, and torch.cuda.is_available() is False here\n")
    if IS_INTERPRETED:
        parser.exit(2, "TRITON_INTERPRET=1 runs the kernels on the CPU, where their time says nothing; unset it\n")
    clock, device = gpu_clock(asked.quick), torch.device("cuda", torch.cuda.current_device())
    told = machine()
    roof = roof_of(told["device"], clock)
    told |= {"roof": roof._asdict(), "quantiles": QUANTILES, "cases": []}
    path = asked.output or (None if asked.quick else RESULTS / file_name(told["device"]))
    print(f"{told['device']}, driver {told['driver']}, {told['versions']}; roof {roof}\n")
    wrong = []
    for case in cases(("bf16",), VISIBLE[:2]) if asked.quick else cases(("bf16", "fp16"), VISIBLE):
        rows = measured_case(case, device, clock)
        print(*table(case, rows, roof), sep="\n", flush=True)
        told["cases"].append(record(case, rows, roof))
        wrong += [str(case)] * (not (rows[0].error or 0.0) <= 1.0)
        torch.cuda.empty_cache()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        print(f"written to {path}")
    print(*(f"WRONG: {case}" for case in wrong), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
