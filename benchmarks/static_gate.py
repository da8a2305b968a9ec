"""What the static report must show: ceilings for the loops, no spills, and no step back from a stored baseline.

Every fault is a sentence. A baseline is JSON with the rows of each Triton version that it was measured with:
{"3.7.1": [row, ...], "3.9.0": [row, ...]}; a row is flat, see static_report.to_json.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from mm.benchmarks.static_report import Case, Row, from_json, to_json

# bf16 with key lengths: (kernel, rows, keys, stages, warps, head width, arch) -> most instructions of the main loop
CEILINGS = {
    ("forward", 128, 64, 3, 4, 64, 80): 659,
    ("forward", 128, 64, 3, 8, 128, 80): 516,
    ("forward", 128, 64, 3, 4, 64, 90): 525,
    ("forward", 128, 64, 3, 8, 128, 90): 370,
    ("decode", 16, 64, 3, 2, 64, 80): 299,
    ("decode", 16, 64, 3, 2, 128, 80): 459,
    ("decode", 16, 64, 3, 2, 64, 90): 295,
    ("decode", 16, 64, 3, 2, 128, 90): 440,
}
GROUPS = (1, 4)  # query heads per key head; ceilings hold for both
SLACK = {"3.9.0": 1.0, "3.7.1": 1.05}  # Triton version -> what its loops may have, in ceilings
LONGER = 1.05  # of the baseline's loop is a step back
BACKWARD_LOOP = 190  # dK and dV with lengths, 16-bit, a key head per query head, head width 128, sm_80: at most
# Local-memory instructions that a loop may have: none, but for fp32 heads wider than 128, which fill every register
# (three TF32 products of operands in two parts). What the compilers leave there, by architecture: of 900 to 1700.
FP32_WIDE_LOCAL = {80: 2, 90: 2, 100: 21}
SHARED_BYTES = {80: 99 * 1024}  # entries of sm_80 also serve consumer GPUs (8.6, 8.9, 12.0), which have no more
FALLBACK_REGISTERS = 32  # ptxas gives up on a kernel and spills all else


def ceilings(version: str) -> dict[Case, int]:
    """Per case with a ceiling the instructions that its main loop may have with this Triton version.

    Raises ValueError for a version that no ceiling is known for.
    """
    if version not in SLACK:
        raise ValueError(f"the ceilings are known for Triton {' and '.join(SLACK)}; this is {version}")
    return {
        Case(kernel, "bf16", head_dim, rows, keys, stages, warps, "lengths", group, arch): int(limit * SLACK[version])
        for (kernel, rows, keys, stages, warps, head_dim, arch), limit in CEILINGS.items()
        for group in GROUPS
    }


def is_clean(case: Case) -> bool:
    """Whether a case must touch no local memory at all; the others must touch none in their loops."""
    fast = case.kernel in {"forward", "decode"} and case.dtype in {"bf16", "fp16"}
    return fast and case.keys_given_by == "lengths" and case.head_dim <= 128


def has_backward_limit(case: Case) -> bool:
    """Whether BACKWARD_LOOP is said of a case."""
    plain = case.dtype in {"bf16", "fp16"} and case.keys_given_by == "lengths" and case.group == 1
    return plain and (case.kernel, case.head_dim, case.arch) == ("dkdv", 128, 80)


def ceiling_faults(rows: Sequence[Row], limits: dict[Case, int]) -> Iterator[str]:
    """Ceilings that are exceeded, or whose case was not built."""
    built = {row.case: row for row in rows if row.error is None}
    for case, limit in limits.items():
        if case not in built:
            yield f"{case}: has a ceiling of {limit} instructions, and was not built"
        elif built[case].loop > limit:
            yield f"{case}: the main loop has {built[case].loop} instructions, at most {limit} are allowed"


def row_faults(row: Row) -> Iterator[str]:
    """What is wrong with one row by itself."""
    case = row.case
    if row.error is not None:
        yield f"{case}: does not compile: {row.error}"
        return
    if row.ctas == 0:
        yield f"{case}: {row.shared} bytes of shared memory and {row.registers} registers do not fit on an SM"
    if row.loop == 0:
        yield f"{case}: no loop holds MMA; the figures of its main loop mean nothing"
    allowed = FP32_WIDE_LOCAL[case.arch] if case.dtype == "fp32" and case.head_dim > 128 else 0
    if row.loop_local > allowed:
        yield f"{case}: {row.loop_local} local-memory instructions in a loop, {allowed or 'none'} are allowed"
    if row.shared > SHARED_BYTES.get(case.arch, row.shared):
        yield f"{case}: {row.shared} bytes of shared memory, at most {SHARED_BYTES[case.arch]} are allowed"
    spilled = row.spill_stores + row.spill_loads
    if is_clean(case) and (row.local or spilled):
        yield f"{case}: {row.local} local-memory instructions and {spilled} bytes of spills, none are allowed"
    if spilled and row.registers <= FALLBACK_REGISTERS:
        yield f"{case}: ptxas fell back to {row.registers} registers; set maxnreg"
    if has_backward_limit(case) and row.loop > BACKWARD_LOOP:
        yield f"{case}: the main loop has {row.loop} instructions, at most {BACKWARD_LOOP} are allowed"


def regressions(rows: Sequence[Row], base: Sequence[Row]) -> Iterator[str]:
    """Steps back from a baseline of the same cases. A case that does not compile now is `row_faults`' to report."""
    now, before = {row.case: row for row in rows}, {row.case: row for row in base}
    for case in before.keys() - now.keys():
        yield f"{case}: is in the baseline, and no longer an entry"
    for case in now.keys() - before.keys():
        yield f"{case}: is not in the baseline; measure it again with --json"
    for case in now.keys() & before.keys():
        new, old = now[case], before[case]
        if new.error is None and old.error is None:
            yield from steps_back(new, old)


def steps_back(new: Row, old: Row) -> Iterator[str]:
    """How a row is worse than its baseline. Loops are compared by instructions per MMA instruction, so that more
    work in an iteration is no fault."""
    case = new.case
    if new.local > old.local:
        yield f"{case}: {new.local} local-memory instructions, {old.local} in the baseline"
    if new.mma.keys() != old.mma.keys():
        yield f"{case}: its MMA are {', '.join(new.mma) or 'none'}, in the baseline {', '.join(old.mma) or 'none'}"
    elif new.loop * old.loop_mma > LONGER * old.loop * new.loop_mma:
        yield (
            f"{case}: the main loop has {new.loop} instructions with {new.loop_mma} MMA, "
            f"{old.loop} with {old.loop_mma} in the baseline"
        )
    if new.ctas < old.ctas:
        yield f"{case}: {new.ctas} CTAs fit on an SM, {old.ctas} in the baseline"


def faults(rows: Sequence[Row], base: Sequence[Row], limits: dict[Case, int]) -> list[str]:
    """Every fault of the rows, sorted, against their baseline and their ceilings."""
    found = [fault for row in rows for fault in row_faults(row)]
    return sorted([*found, *ceiling_faults(rows, limits), *regressions(rows, base)])


def read_baseline(path: Path) -> dict[str, list[Row]]:
    """Rows per Triton version. Raises ValueError if the file is not what `write_baseline` writes."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {version: [from_json(flat) for flat in rows] for version, rows in stored.items()}
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no baseline of this report ({error}); measure again with --json") from error


def write_baseline(path: Path, baselines: dict[str, list[Row]]) -> None:
    """Writes what `read_baseline` reads, a row per line."""
    parts = []
    for version, rows in sorted(baselines.items()):
        lines = ",\n".join(f"  {json.dumps(to_json(row))}" for row in rows)
        parts.append(f"{json.dumps(version)}: [\n{lines}\n]")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
