"""The benchmark against transformers: small models give what their peers give; a wanted ratio counts."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("inference", FOLDER / "inference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "inference", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blip", "git", "vit-gpt2", "vqa", "clip", "siglip"])
def test_small_models_are_equal_to_their_peers(benchmark, name, capsys, tmp_path):
    assert benchmark.main([name, "--tiny", "--pairs", "1", "--log", str(tmp_path / "log.txt")]) == 0
    assert "all as wanted" in capsys.readouterr().out
    assert (tmp_path / "log.json").exists()


@pytest.mark.slow
def test_other_weights_and_a_ratio_that_is_missed_are_noticed(benchmark, monkeypatch, capsys):
    row = list(benchmark.clip(benchmark.MEDIUM))[1]  # the texts
    monkeypatch.setattr(row, "wanted", 1e6)
    monkeypatch.setitem(benchmark.MODELS, "clip", lambda tiny: [row])
    assert benchmark.main(["clip", "--quick"]) == 1
    assert "NOT AS WANTED: CLIP, 32 texts" in capsys.readouterr().out
    ours = row.ours
    monkeypatch.setattr(row, "ours", lambda: ours() + 1e-3)
    with pytest.raises(RuntimeError, match="differ"):
        benchmark.main(["clip", "--quick"])
