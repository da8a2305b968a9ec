"""docs/conversion.md holds what benchmarks/convert_memory.py prints, and conversion keeps one checkpoint in memory."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "convert_memory.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("convert_memory_benchmark", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ratios(lines: list[str]) -> dict[str, list[float]]:
    """What was run -> both ratios."""
    return {line.split("`")[1]: [float(x) for x in re.findall(r"\d+\.\d+", line)] for line in lines[2:]}


def test_the_documented_runs_stay_below_the_limit(benchmark):
    page = (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8")
    documented = page.split("<!-- benchmarks/convert_memory.py -->\n")[1].split("<!-- end -->")[0].splitlines()
    size, shards = (int(number) for number in re.findall(r"\d+", documented[0]))
    assert size >= 1024 and shards > 1
    found = ratios(documented)
    assert list(found) == list(benchmark.RUNS)
    assert all(len(pair) == 2 and max(pair) <= benchmark.LARGEST_RATIO for pair in found.values())


@pytest.mark.slow
@pytest.mark.linux
def test_a_checkpoint_is_held_once_there_and_back(benchmark):
    found = ratios(list(benchmark.lines(layers=8, width=1024, shard="100MB")))
    assert max(max(pair) for pair in found.values()) <= benchmark.LARGEST_RATIO
