"""Every script runs on small models, finds equal results and leaves a log; a ratio that is missed fails the run."""

import importlib
import json
import sys
from pathlib import Path

import harness
import numpy as np
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


@pytest.mark.slow
def test_long_speech_runs_on_two_short_sounds(tmp_path, monkeypatch):
    """On bursts of noise in place of the recordings, which are fetched."""
    import soundfile

    script, rng, log = importlib.import_module("long_speech"), np.random.default_rng(0), tmp_path / "log.txt"
    root = tmp_path / "usr/share/tuxpaint/stamps"
    root.mkdir(parents=True)
    for number in range(24):
        burst = rng.standard_normal(8000 + 500 * number) * np.hanning(8000 + 500 * number) / 5
        soundfile.write(root / f"{number}_desc_{script.LANGUAGES[number % 2]}.ogg", burst, script.RATE)
    monkeypatch.setattr(script, "debian_directory", lambda name: tmp_path)
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    chosen = ["greedy", "fallback", "previous text", "5 beams, word times"]
    assert script.main(["--tiny", "--log", str(log), "--only", *chosen]) == 0
    assert "espeak-ng is not installed" in log.read_text(encoding="utf-8")
    rows = json.loads(log.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
    assert [row["setting"] for row in rows] == chosen and {row["apart"] for row in rows} == {0}
    assert all(row["segments"] >= 6 for row in rows) and rows[1]["unlike_greedy"] == 2


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
