"""The benchmark against BLIP: its small check passes, and it fails when what it claims does not hold."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from mm import MMCache

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "beam_search_vs_blip.py"
TINY_CHECK = ["--tiny", "--check-only", "--batches", "2"]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[SCRIPT.stem]


@pytest.fixture(scope="module")
def contest(benchmark):
    peer = benchmark.build_peer(tiny=True)
    size = peer.config.vision_config.image_size
    return benchmark.Contest(benchmark.build_ours(peer), peer, benchmark.draw_pictures(2, size))


def test_the_tiny_check_passes_and_writes_what_it_prints(benchmark, tmp_path, capsys):
    log = tmp_path / "log.txt"
    assert benchmark.main([*TINY_CHECK, "--log", str(log)]) == 0
    printed = capsys.readouterr().out
    assert log.read_text(encoding="utf-8") == printed
    for line in (
        "beam tokens equal; 2 different captions",
        "(5.000x)",
        "of cross K/V: MM 0, BLIP 80",
        "all as wanted",
    ):
        assert line in printed


def test_decoding_alone_gives_the_tokens_of_the_whole_generate(contest):
    expected = contest.peer_whole()
    for decode in (contest.peer_decoding, contest.ours_decoding, contest.ours_whole):
        assert torch.equal(decode(), expected)


@pytest.mark.slow
def test_a_wanted_ratio_that_is_missed_fails_the_run(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "WANTED", {1: (1e6, 0.0)})
    assert benchmark.main(["--tiny", "--batches", "1", "--pairs", "1"]) == 1
    assert "NOT AS WANTED: batch 1, generate():" in capsys.readouterr().out


def test_another_weight_is_noticed(benchmark, contest):
    weight = contest.model.model.language_model.layers[0].cross_attn.v_proj.weight
    with torch.no_grad():
        weight.add_(1e-3)
        faults = benchmark.check(contest, lambda line: None)
        weight.sub_(1e-3)
    assert any("logits differ" in fault for fault in faults)


def test_keys_that_are_gathered_or_projected_again_are_noticed(benchmark, contest, monkeypatch):
    cross = contest.model.model.language_model.layers[-1].cross_attn
    stored, read = MMCache.context_states, []

    def made_again(cache, layer, project, memory):
        keys, values = stored(cache, layer, project, memory)
        if layer != cross.layer_idx:
            return keys, values
        read.append(read[-1] if memory is None else memory)  # a decode step brings none
        cross.v_proj(read[-1])
        return keys[torch.arange(len(keys))], values

    monkeypatch.setattr(MMCache, "context_states", made_again)
    faults = benchmark.check(contest, lambda line: None)
    assert faults == [
        "batch 2: MM gathers from cross K/V",
        "batch 2: MM projects K/V not exactly once per picture and layer",
    ]


def test_a_peer_tensor_without_a_place_is_refused(benchmark, contest, monkeypatch):
    monkeypatch.setattr(benchmark, "UNUSED", {})
    with pytest.raises(RuntimeError, match="cls.predictions.bias"):
        benchmark.build_ours(contest.peer)


@pytest.mark.slow
def test_the_check_passes_on_the_config_that_is_timed(benchmark, capsys):
    assert benchmark.main(["--check-only", "--batches", "2"]) == 0
    assert "224.0 M parameters" in capsys.readouterr().out
