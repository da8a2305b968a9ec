"""docs/conversion.md holds what benchmarks/memory.py prints, and conversion keeps one checkpoint in memory."""

import re
from pathlib import Path

import memory
import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conversion.md").read_text(encoding="utf-8")


def ratios(lines: list[str]) -> dict[str, list[float]]:
    """What was run -> both ratios."""
    return {line.split("`")[1]: [float(x) for x in re.findall(r"\d+\.\d+", line)] for line in lines[2:]}


def test_the_documented_runs_stay_below_the_limit():
    documented = PAGE.split("<!-- benchmarks/memory.py convert -->\n")[1].split("<!-- end -->")[0].splitlines()
    size, shards = (int(number) for number in re.findall(r"\d+", documented[0]))
    assert size >= 1024 and shards > 1
    found = ratios(documented)
    assert list(found) == list(memory.RUNS)
    assert all(len(pair) == 2 and max(pair) <= memory.LARGEST_RATIO for pair in found.values())


@pytest.mark.slow
@pytest.mark.linux
def test_a_checkpoint_is_held_once_there_and_back():
    found = ratios(list(memory.conversion_table(layers=8, width=1024, shard="100MB")))
    assert max(max(pair) for pair in found.values()) <= memory.LARGEST_RATIO
