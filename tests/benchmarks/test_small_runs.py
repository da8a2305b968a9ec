"""Every script runs on small models, finds equal results and leaves a log; a ratio that is missed fails the run."""

import importlib
import json
import sys
from pathlib import Path

import harness
import pytest
import torch
from harness import Row

RUNS = {
    "parts": ["linear", "loss", "explain", "ranking", "drawing", "recall"],
    "training": ["blip"],
    "versions": ["first", "--old", sys.executable],
    "memory": ["loss", "convert"],
    "floor": ["blip", "git", "vit-gpt2"],
    "cpu": ["onnx", "optimum"],
    "everyday": ["load", "convert"],
    "whisper_speed": [],
    "caption_folder": ["--against", str(Path(__file__).resolve().parents[2])],
    "serve_load": [],
}


@pytest.mark.slow
@pytest.mark.linux
@pytest.mark.parametrize("name", RUNS)
def test_a_small_run_is_as_wanted(name, tmp_path, capsys):
    log = tmp_path / "log.txt"
    script = importlib.import_module(name)
    assert script.main([*RUNS[name], "--tiny", "--pairs", "1", "--log", str(log)]) == 0
    assert "all as wanted" in log.read_text(encoding="utf-8") and "all as wanted" in capsys.readouterr().out
    assert json.loads(log.with_suffix(".json").read_text(encoding="utf-8"))["rows"]


def slow_and_equal(report):
    yield Row("work", lambda: torch.ones(1), lambda: torch.ones(1), wanted=1e6, quick=1)
    yield Row("more work", lambda: torch.ones(1), lambda: torch.zeros(1))


def test_a_missed_ratio_and_unequal_results_fail_a_table(capsys):
    groups = {"some": slow_and_equal}
    assert harness.table(harness.options(None), groups, ["--quick"]) == 1
    assert "NOT AS WANTED: work" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="more work: they differ"):
        harness.table(harness.options(None), groups, ["--pairs", "1"])
    with pytest.raises(SystemExit):
        harness.table(harness.options(None), groups, ["others"])
    assert "no group is called others; there are some" in capsys.readouterr().err
