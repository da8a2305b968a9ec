"""benchmarks/before_after.py runs two environments in turn, and stops where they answer otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "before_after.py"


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_an_environment_beside_itself_gives_a_row_per_task():
    done = run(sys.executable, sys.executable, "--tiny", "--pairs", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("medians of 1 pairs")) + 1
    rows = lines[start : start + 5]
    assert [row.split(",")[0].split("  ")[0] for row in rows] == [
        "generate()", "decoding alone", "generate()", "decoding alone", "rank_answers",
    ]  # fmt: skip
    assert all(float(row[32:41]) > 0 for row in rows)


@pytest.mark.slow
def test_one_environment_is_too_few():
    done = run(sys.executable)
    assert done.returncode == 2 and "two interpreters" in done.stderr
