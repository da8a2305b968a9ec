"""benchmarks/caption_metrics.py: its captions, and one side of it in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "caption_metrics.py"


@pytest.mark.slow
def test_our_side_says_what_it_took_and_the_values():
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--side", "ours", "40", "5", "1", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu, wall, memory, *values = map(float, done.stdout.split())
    assert cpu > 0 and wall > 0 and memory > 1 and len(values) == 7
    assert 1 > values[0] > values[1] > values[2] > values[3] > 0  # BLEU-1 to BLEU-4
