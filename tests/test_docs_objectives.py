"""docs/objectives.md is true: its examples run one after the other, and its files are there."""

import re
from pathlib import Path

import pytest
import torch

from mm import MMForImageTextRetrieval

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
LOG = ROOT / "benchmarks" / "logs" / "chunked_cross_entropy.txt"


def test_the_examples_run_and_end_in_finite_losses(tiny_model, pictures):
    model = tiny_model(cls=MMForImageTextRetrieval, text_encoder_config="tiny", dtype=torch.float32).train()
    names = {
        "torch": torch,
        "model": model,
        "pixel_values": torch.cat([pictures, pictures]).float(),
        "input_ids": torch.tensor([[1, 5, 6], [1, 8, 0], [1, 3, 9], [1, 4, 9], [1, 8, 0]]),
        "context_index": torch.tensor([0, 1, 2, 2, 3]),
    }
    names["attention_mask"] = names["input_ids"].ne(0).long()
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S):
        exec(block, names)
        assert torch.isfinite(names["loss"]) and names["loss"] > 0
        assert names["loss"].requires_grad


def test_every_file_of_the_table_is_there():
    files = re.findall(r"^\| `(\w+\.py)`", PAGE, flags=re.M)
    assert len(files) == 8 and all((ROOT / "modeling_mm" / name).is_file() for name in files)


@pytest.mark.parametrize("line", [line for line in PAGE.splitlines() if line.startswith(("| 30", "| 25"))])
def test_the_measured_table_is_the_log_s(line):
    assert line in LOG.read_text(encoding="utf-8").splitlines()
