"""What the compilers produce from a Triton kernel, without a GPU: registers, spills, tensor-core work, length of its
loop.

An entry is built ahead of time for an architecture, exactly as the JIT would build it on a GPU of that kind: pointers
are 16-byte aligned, and so are the integers that an entry marks ":16". The cubin is then read with the disassembler
that Triton's wheel carries. A row has only what can be seen in code: no clock, no bandwidth.
"""

import contextlib
import importlib
import io
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.errors import TritonError

from mm.tests.kernels.static import sass

# What one SM holds (CUDA C++ programming guide, "Compute Capabilities"). Each CTA takes another KiB of shared memory.
SHARED_BYTES = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
THREADS, CTAS, SCHEDULERS, REGISTERS_OF_SCHEDULER = 2048, 32, 4, 16384
SYSTEM_SHARED_BYTES = 1024
REGISTER_GRAIN = 256  # registers are given to a warp in such portions


@dataclass(frozen=True)
class Case:
    """What is built: a kernel for a head width, with a tile of rows x keys, on an architecture (80: sm_80).

    keys_given_by says how the kernel learns which keys count: "lengths", "mask", "ranges". group is the number of
    query heads that share a key head.
    """

    kernel: str
    dtype: str
    head_dim: int
    rows: int
    keys: int
    stages: int
    warps: int
    keys_given_by: str
    group: int
    arch: int

    @property
    def name(self) -> str:
        tile = f"{self.rows}x{self.keys} s{self.stages} w{self.warps}"
        return f"{self.kernel} {self.dtype} d{self.head_dim} {tile} {self.keys_given_by} g{self.group}"

    def __str__(self) -> str:
        return f"{self.name} sm_{self.arch}"


@dataclass(frozen=True)
class Entry:
    """A case with the code that it stands for.

    source: "module:function" of a `@triton.jit` function. arguments: per parameter a value if it is a constexpr,
    otherwise a type ("*bf16", "fp32", "i32", "i32:16" for an integer divisible by 16), or None or 1, which the JIT
    makes constants. options: of triton.compile, beside the warps and stages of the case.
    """

    case: Case
    source: str
    arguments: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One entry's figures, or `error` alone if it does not compile. Instructions are a warp's.

    per_mma: instructions of the main loop other than MMA, per 16x8x16 MMA of a warp; None where opcodes hide shapes.
    loop_local: local-memory instructions in the main loop and in the loops around it.
    apart: instructions of the main loop that only a warp runs whose lanes are apart (sass.apart).
    """

    case: Case
    error: str | None = None
    registers: int = 0
    spill_stores: int = 0  # bytes
    spill_loads: int = 0  # bytes
    shared: int = 0  # bytes
    ctas: int = 0  # that fit on an SM together
    mma: dict[str, int] = field(default_factory=dict)
    local: int = 0
    loop_local: int = 0
    instructions: int = 0
    loop: int = 0
    loop_mma: int = 0
    apart: int = 0
    per_mma: float | None = None


def signature(function: Any, arguments: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any], dict]:
    """(types, constants, hints) of a jit function's parameters, as triton.compiler.ASTSource takes them.

    Raises ValueError if the arguments are not the function's parameters, or if one has neither a type nor a value.
    """
    names = [parameter.name for parameter in function.params]
    if faults := sorted(set(names) ^ set(arguments)):
        raise ValueError(f"{function.__name__} takes {names}; not a parameter, or without an argument: {faults}")
    types, constants, hints = {}, {}, {}
    for place, parameter in enumerate(function.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None or (value == 1 and not isinstance(value, str)):
            types[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, str):
            types[parameter.name], _, divisor = value.partition(":")
            if divisor == "16" or value.startswith("*"):
                hints[(place,)] = [["tt.divisibility", 16]]
        else:
            raise ValueError(f"{parameter.name}={value!r} is no constexpr of {function.__name__}: give a Triton type")
    return types, constants, hints


@contextlib.contextmanager
def stderr_into(file: Any) -> Iterator[None]:
    """Sends what this process and its compilers write to stderr into an open file."""
    saved = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def build(entry: Entry) -> tuple[Any, str]:
    """(compiled kernel, log of ptxas). Raises RuntimeError with the compiler's first words if there is no kernel."""
    module, _, name = entry.source.partition(":")
    function = getattr(importlib.import_module(module), name)
    types, constants, hints = signature(function, entry.arguments)
    source = ASTSource(fn=function, signature=types, constexprs=constants, attrs=hints)
    options = {"num_warps": entry.case.warps, "num_stages": entry.case.stages, **entry.options}
    log = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as cache,
        tempfile.TemporaryFile() as complaints,
        knobs.cache.scope(),
        knobs.nvidia.scope(),
    ):
        knobs.cache.dir = cache
        knobs.nvidia.dump_ptxas_log = True
        try:
            with contextlib.redirect_stdout(log), stderr_into(complaints):
                kernel = triton.compile(source, target=GPUTarget("cuda", entry.case.arch, 32), options=options)
        except (TritonError, RuntimeError) as error:
            complaints.seek(0)
            said = re.findall(r"error: (.+)", complaints.read().decode(errors="replace"))
            last = str(error).strip().splitlines()[-1:]
            raise RuntimeError(" ".join([*said[:1], *last])[:200] or type(error).__name__) from error
    return kernel, log.getvalue()


def disassemble(cubin: bytes) -> str:
    """SASS of a cubin, by the nvdisasm of the installed Triton."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([str(tool), "-c", file.name], capture_output=True, text=True, check=True).stdout


def ctas_per_sm(registers: int, shared: int, warps: int, arch: int) -> int:
    """How many CTAs an SM holds at once; 0 if not even one."""
    per_warp = -(-max(registers, 1) * 32 // REGISTER_GRAIN) * REGISTER_GRAIN
    return min(
        CTAS,
        THREADS // (32 * warps),
        SCHEDULERS * (REGISTERS_OF_SCHEDULER // per_warp) // warps,
        SHARED_BYTES[arch] // (shared + SYSTEM_SHARED_BYTES),
    )


def resources(log: str) -> tuple[int, int, int]:
    """(registers, bytes of spill stores, bytes of spill loads) that ptxas reports.

    Raises ValueError if the log names no registers: then nothing is known about spills either.
    """
    used = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if not used or not spills:
        raise ValueError(f"no register count or no spill count in the log of ptxas: {log!r}")
    return int(used[1]), int(spills[1]), int(spills[2])


def measure(entry: Entry) -> Row:
    """Builds one entry and reads its figures; a kernel that does not compile is a row too."""
    try:
        kernel, log = build(entry)
    except RuntimeError as error:
        return Row(entry.case, error=str(error))
    program = sass.parse(disassemble(kernel.asm["cubin"]))
    registers, stores, loads = resources(log)
    loop = sass.main_loop(program)
    loop_mma = sass.count(loop, sass.MMA)
    units = [sass.mma_units(instruction) for instruction in loop if instruction.base in sass.MMA]
    known = [unit for unit in units if unit is not None]
    return Row(
        entry.case,
        registers=registers,
        spill_stores=stores,
        spill_loads=loads,
        shared=kernel.metadata.shared,
        ctas=ctas_per_sm(registers, kernel.metadata.shared, kernel.metadata.num_warps, entry.case.arch),
        mma=sass.opcodes(program.instructions, sass.MMA),
        local=sass.count(program.instructions, sass.LOCAL_MEMORY),
        loop_local=sass.count(sass.whole_loop(program), sass.LOCAL_MEMORY),
        instructions=len(program.instructions),
        loop=len(loop),
        loop_mma=loop_mma,
        apart=len(sass.apart(program, loop)),
        per_mma=round((len(loop) - loop_mma) / sum(known), 2) if known and len(known) == len(units) else None,
    )


def measure_all(entries: Sequence[Entry], jobs: int) -> list[Row]:
    """Rows of all entries, in their order, built by `jobs` processes."""
    if jobs == 1:
        return [measure(entry) for entry in entries]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(measure, entries))


def to_json(row: Row) -> dict[str, Any]:
    """A row as flat JSON: the fields of its case, then its figures, or only its error."""
    figures = {f.name: getattr(row, f.name) for f in fields(Row)[1:] if row.error is None or f.name == "error"}
    return {**vars(row.case), **{name: value for name, value in figures.items() if name != "error" or value}}


def from_json(flat: dict[str, Any]) -> Row:
    """The row that `to_json` wrote. Raises TypeError if a field is missing or unknown."""
    names = {f.name for f in fields(Case)}
    case = Case(**{name: value for name, value in flat.items() if name in names})
    return Row(case, **{name: value for name, value in flat.items() if name not in names})


def table(rows: Sequence[Row]) -> str:
    """The rows as text, one line each."""
    titles = "entry|sm|regs|spill B|smem KiB|CTA/SM|MMA|LDL+STL|in loop|SASS|loop|MMA in loop|apart|other/MMA"
    head: list[str] = [*titles.split("|")]
    lines = [head]
    for row in rows:
        first = [row.case.name, str(row.case.arch)]
        if row.error is not None:
            lines.append([*first, f"does not compile: {row.error}"])
            continue
        spills, shared = f"{row.spill_stores}/{row.spill_loads}", f"{row.shared / 1024:.1f}"
        mma = " ".join(f"{n} {opcode}" for opcode, n in row.mma.items()) or "-"
        counts = (row.local, row.loop_local, row.instructions, row.loop, row.loop_mma, row.apart)
        per_mma = "-" if row.per_mma is None else f"{row.per_mma:.2f}"
        lines.append([*first, str(row.registers), spills, shared, str(row.ctas), mma, *map(str, counts), per_mma])
    full = [line for line in lines if len(line) == len(head)]
    widths = [max(len(line[column]) for line in full) for column in range(len(head))]
    widths[0] = max(len(line[0]) for line in lines)
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=False)).rstrip() for line in lines)
