"""The static performance report of the Triton kernels, and its gate. No GPU is needed.

    S=tests/kernels/static/kernel_static
    python $S.py                                 # the table
    python $S.py --check $S.json                 # exits with 1 if there is a fault
    python $S.py --json $S.json                  # a new baseline
    python $S.py --arch 90 --only 'decode bf16'  # a part, in seconds

Every tile of mm/kernels/tuning.py, and the kernels that need none, are built ahead of time for sm_80, sm_90 and
sm_100, disassembled and counted. The gate holds the ceilings and rules of static_gate.py, and compares with the rows
stored for the installed Triton version; another version is put in front by PYTHONPATH.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import triton

from mm.tests.kernels.static import static_gate, static_report
from mm.tests.kernels.static.kernel_entries import entries
from mm.tests.kernels.static.static_report import Case, Row


def architectures(text: str) -> list[int]:
    """ "80,90" -> [80, 90]. Raises ArgumentTypeError for an architecture that is not known."""
    known = {str(arch): arch for arch in static_report.SHARED_BYTES}
    unknown = [name for name in text.split(",") if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} not known; give some of {','.join(known)}")
    return [known[name] for name in text.split(",")]


def pattern(text: str) -> re.Pattern[str]:
    """A regular expression of the command line."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error


def baseline(text: str) -> dict[str, list[Row]]:
    """The rows of a file that --json wrote."""
    try:
        return static_gate.read_baseline(Path(text))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ends the process with a message if it makes no sense."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=architectures, default="80,90,100", help="compute capabilities, 80,90,100")
    parser.add_argument("--only", type=pattern, default="", help="entries whose name has this regular expression")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    parser.add_argument("--json", type=Path, help="put the measured rows of this Triton version into this file")
    parser.add_argument("--check", type=baseline, help="a file of --json: exit with 1 on every fault")
    asked = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET", "0") not in {"", "0"}:
        parser.error("TRITON_INTERPRET is set: the interpreter compiles nothing")
    if asked.check is not None and triton.__version__ not in asked.check:
        parser.error(f"the baseline knows Triton {', '.join(asked.check)}; --json adds {triton.__version__}")
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report and the faults; 1 if there are any, 0 otherwise."""
    asked, version = parse(arguments), triton.__version__

    def is_asked_for(case: Case) -> bool:
        return case.arch in asked.arch and bool(asked.only.search(case.name))

    chosen = [entry for entry in entries(asked.arch) if is_asked_for(entry.case)]
    stored = static_gate.read_baseline(asked.json) if asked.json and asked.json.exists() else {}
    print(f"Triton {version}: {len(chosen)} entries, {asked.jobs} processes", file=sys.stderr)
    start = time.monotonic()
    rows = static_report.measure_all(chosen, asked.jobs)
    print(static_report.table(rows))
    print("\n".join(static_gate.against_anchors(rows)))
    print(f"{len(rows)} entries in {time.monotonic() - start:.0f} s", file=sys.stderr)
    if asked.json:
        others = [row for row in stored.get(version, []) if not is_asked_for(row.case)]
        static_gate.write_baseline(asked.json, {**stored, version: [*others, *rows]})
    if asked.check is None:
        return 0
    base = [row for row in asked.check[version] if is_asked_for(row.case)]
    bounded = {case: limit for case, limit in static_gate.ceilings(version).items() if is_asked_for(case)}
    found = static_gate.faults(rows, base, bounded, static_gate.SLACK[version])
    print("\n".join(found) or f"no fault in {len(rows)} entries with Triton {version}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
