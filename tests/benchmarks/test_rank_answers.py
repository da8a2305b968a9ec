"""The benchmark of rank_answers: all ways give the same scores, and it fails when what it claims does not hold."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "rank_answers.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("rank_answers_benchmark", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_three_ways_score_alike(benchmark):
    ways = benchmark.Ways(*benchmark.build(tiny=True))
    ranked = ways.ranked()
    assert ranked.shape == (128,) and ranked.std() > 0.01
    for alone in (ways.pairs(), ways.pairs_from_pixels()):
        assert bool(((ranked - alone).abs() <= 1e-5 * alone.abs().clamp(min=1)).all())


@pytest.mark.slow
def test_a_wanted_ratio_that_is_missed_fails_the_run(benchmark, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark, "WANTED", 1e6)
    log = tmp_path / "log.txt"
    assert benchmark.main(["--tiny", "--pairs", "1", "--log", str(log)]) == 1
    printed = capsys.readouterr().out
    assert "NOT AS WANTED: one pair at a time" in printed and log.read_text(encoding="utf-8") == printed
