"""docs/fine-tuning.md is true: its examples run one after the other, and the adapter learns."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_examples_run_as_written(tmp_path, monkeypatch):
    for name in ("checkpoints", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S):
        exec(block, found)
    caption = found["processor"].batch_decode(found["ids"], skip_special_tokens=True)
    assert caption == ["smiling rocket"]
    assert found["merged"].generate(**found["inputs"], num_beams=3).tolist() == found["ids"].tolist()
    assert (tmp_path / "runs" / "merged" / "processor_config.json").exists()
    assert not (tmp_path / "runs" / "lora" / "model.safetensors").exists()
    assert found["before"]["eval_exact"] == 1.0 and found["before"]["eval_loss"] < 2
    written = [entry for entry in found["trainer"].state.log_history if "eval_exact" in entry]
    assert [entry["step"] for entry in written] == [5]
