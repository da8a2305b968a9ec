"""The committed log of benchmarks/convert_cost.py keeps its bars: CPU seconds beside the peer's, and memory."""

import re
from pathlib import Path

LOG = Path(__file__).parents[2] / "benchmarks" / "logs" / "convert_cost.txt"


def test_converting_costs_little_more_than_loading_and_saving():
    log = LOG.read_text(encoding="utf-8")
    assert re.findall(r"BLIP-(\w+)", log) == ["base", "large"]
    ratios = [float(number) for number in re.findall(r"ratio of the medians (\d+\.\d+)", log)]
    held = [float(number) for number in re.findall(r"mm convert .* held (\d+\.\d+)", log)]
    assert len(ratios) == len(held) == 2
    assert max(ratios) <= 1.5 and max(held) <= 0.1
