"""The benchmark against transformers: small models give what their peers give; a wanted ratio counts."""

from dataclasses import replace

import inference
import peers
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blip", "git", "vit-gpt2", "vqa", "llava", "mllama", "clip", "siglip"])
def test_small_models_are_equal_to_their_peers(name, capsys, tmp_path):
    assert inference.main([name, "--tiny", "--pairs", "1", "--log", str(tmp_path / "log.txt")]) == 0
    assert "all as wanted" in capsys.readouterr().out
    assert (tmp_path / "log.json").exists()


@pytest.mark.slow
def test_other_weights_and_a_ratio_that_is_missed_are_noticed(monkeypatch, capsys):
    monkeypatch.setattr(inference, "sizes_of", lambda report: peers.MEDIUM)
    rows = []
    group = inference.clip
    monkeypatch.setitem(inference.MODELS, "clip", lambda report: rows.append(list(group(report))[1]) or rows)
    monkeypatch.setattr(inference.harness.Report, "want", lambda *found: wants.append(found))
    wants = []
    inference.main(["clip", "--quick"])
    assert wants[0][1] == "CLIP, 32 texts of 7 to 41 tokens in 77" and wants[0][3] == rows[0].wanted / 2
    row = replace(rows[0], ours=lambda: rows[0].other() + 1e-3)
    with pytest.raises(RuntimeError, match="differ"):
        inference.harness.Report().measure(row)
