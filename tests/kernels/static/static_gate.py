"""What the static report must show: ceilings for the loops, no spills, and no step back from a stored baseline.

Every fault is a sentence. A baseline is JSON with the rows of each Triton version that it was measured with:
{"3.7.1": [row, ...], "3.9.0": [row, ...]}; a row is flat, see static_report.to_json.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mm.tests.kernels.static.static_report import Case, Row, from_json, to_json

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
# Of the loop of the same tile with lengths is what one over a shared prefix may have. On sm_80 ptxas writes its
# shuffles once more for a warp whose lanes are apart, which they never are: it cannot tell, as lanes add up which
# context theirs is. These instructions are in the loop and are not run.
PREFIX_LONGER = 1.1
# The same anchors, in instructions other than MMA per 16x8x16 MMA: (kernel, head width, arch) -> with 3.9.0. Other
# tiles of a width are held to them: with more rows a tile may not cost more than the anchor of fewer rows.
PER_MMA = {
    ("forward", 64, 80): 4.15,
    ("forward", 128, 80): 3.03,
    ("forward", 64, 90): 3.98,
    ("forward", 128, 90): 2.80,
    ("decode", 64, 80): 8.34,
    ("decode", 128, 80): 6.17,
    ("decode", 64, 90): 8.22,
    ("decode", 128, 90): 5.88,
}
OTHER_TILES = 1.05  # of the anchor's figure is what another tile may have
ANCHOR_ROWS = {"forward": 128, "decode": 16}
BACKWARD_LOOP = 190  # dK and dV with lengths, 16-bit, a key head per query head, head width 128, sm_80: at most
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


def is_without_keys(case: Case) -> bool:
    """Whether a kernel goes only over rows, and has no MMA."""
    return case.keys_given_by == "no keys"


def is_clean(case: Case) -> bool:
    """Whether a case must touch no local memory at all; the others must touch none in their main loops."""
    if is_without_keys(case):
        return True
    fast = case.kernel in {"forward", "decode"} and case.dtype in {"bf16", "fp16"}
    return fast and case.keys_given_by in ("lengths", "prefix") and case.head_dim <= 128


def anchor(case: Case) -> float | None:
    """What the anchor with most rows, of those with as many as this case or fewer, has of other instructions per MMA;
    None without an anchor: other kernels, element types, kinds of masks, widths and architectures."""
    if case.kernel not in ANCHOR_ROWS or case.dtype not in {"bf16", "fp16"} or case.keys_given_by != "lengths":
        return None
    kernel = "forward" if case.rows >= ANCHOR_ROWS["forward"] else "decode"
    return PER_MMA.get((kernel, case.head_dim, case.arch)) if case.rows >= ANCHOR_ROWS[kernel] else None


def has_backward_limit(case: Case) -> bool:
    """Whether BACKWARD_LOOP is meant for a case."""
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


def against_anchors(rows: Sequence[Row]) -> list[str]:
    """A line for every row that has an anchor: how its other instructions per MMA compare with the anchor's."""
    lines = []
    for row in rows:
        figure = anchor(row.case)
        if figure is not None and row.per_mma is not None:
            share = row.per_mma / figure
            lines.append(f"{row.case}: {row.per_mma:.2f} per MMA, {share:.2f} of the anchor's {figure:.2f}")
    return lines


def anchor_faults(rows: Sequence[Row], limits: dict[Case, int], slack: float) -> Iterator[str]:
    """Tiles without a ceiling of their own that take more instructions per MMA than slack * OTHER_TILES times
    their anchor."""
    for row in rows:
        figure = None if row.case in limits else anchor(row.case)
        allowed = None if figure is None else round(slack * OTHER_TILES * figure, 2)
        if allowed is not None and row.per_mma is not None and row.per_mma > allowed:
            yield f"{row.case}: {row.per_mma:.2f} other instructions per MMA, at most {allowed:.2f} are allowed"


def prefix_faults(rows: Sequence[Row]) -> Iterator[str]:
    """Tiles over a prefix that ragged rows share with a longer loop than the same tile has with lengths."""
    built = {row.case: row for row in rows if row.error is None}
    for case, row in built.items():
        if case.keys_given_by != "prefix":
            continue
        same = built.get(replace(case, keys_given_by="lengths"))
        if same is None:
            yield f"{case}: there is no such tile with lengths to compare it with"
        elif row.loop - row.apart > PREFIX_LONGER * (same.loop - same.apart):
            yield (
                f"{case}: the main loop has {row.loop} instructions, {row.apart} of them for lanes that are apart; "
                f"with lengths {same.loop}"
            )


def row_faults(row: Row) -> Iterator[str]:
    """What is wrong with one row by itself."""
    case = row.case
    if row.error is not None:
        yield f"{case}: does not compile: {row.error}"
        return
    if row.ctas == 0:
        yield f"{case}: {row.shared} bytes of shared memory and {row.registers} registers do not fit on an SM"
    if row.loop == 0 and not is_without_keys(case):
        yield f"{case}: no loop holds MMA; the figures of its main loop mean nothing"
    if row.loop_local:
        yield f"{case}: {row.loop_local} local-memory instructions in the main loop, none are allowed"
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
        yield f"{case}: is in the baseline, but is not an entry now"
    for case in now.keys() - before.keys():
        if case.keys_given_by == "prefix":  # held to the tile with lengths
            continue
        yield f"{case}: is not in the baseline; measure it again with --json"
    for case in now.keys() & before.keys():
        new, old = now[case], before[case]
        if new.error is None and old.error is None:
            yield from steps_back(new, old)


def steps_back(new: Row, old: Row) -> Iterator[str]:
    """How a row is worse than its baseline. Loops are compared by other instructions per 16x8x16 MMA, or per MMA
    instruction where its shape is not known, so that more work in an iteration is no fault."""
    case = new.case
    if new.local > old.local:
        yield f"{case}: {new.local} local-memory instructions, {old.local} in the baseline"
    if new.mma.keys() != old.mma.keys():
        yield f"{case}: its MMA are {', '.join(new.mma) or 'none'}, in the baseline {', '.join(old.mma) or 'none'}"
    elif new.per_mma is not None and old.per_mma is not None:
        if new.per_mma > LONGER * old.per_mma:
            yield f"{case}: {new.per_mma:.2f} other instructions per MMA, {old.per_mma:.2f} in the baseline"
    elif new.loop * old.loop_mma > LONGER * old.loop * new.loop_mma:
        yield (
            f"{case}: the main loop has {new.loop} instructions with {new.loop_mma} MMA, "
            f"{old.loop} with {old.loop_mma} in the baseline"
        )
    if new.ctas < old.ctas:
        yield f"{case}: {new.ctas} CTAs fit on an SM, {old.ctas} in the baseline"


def faults(rows: Sequence[Row], base: Sequence[Row], limits: dict[Case, int], slack: float = 1.0) -> list[str]:
    """Every fault of the rows, sorted, against their baseline, their ceilings, and slack times their anchors."""
    found = [fault for row in rows for fault in row_faults(row)]
    compared = [*ceiling_faults(rows, limits), *anchor_faults(rows, limits, slack), *regressions(rows, base)]
    compared += prefix_faults(rows)
    return sorted(found + compared)


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
