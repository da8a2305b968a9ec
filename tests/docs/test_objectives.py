"""docs/objectives.md is true: its examples run one after the other, and its files are there."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
TABLES = re.findall(r"<!-- (benchmarks/logs/\S+) -->\n\|.*\n\|.*\n((?:\|.*\n)+)<!-- end -->", PAGE)


def test_the_examples_run_as_written_and_end_in_finite_losses(monkeypatch, tmp_path):
    for name in ("checkpoints", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    first, *blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    exec(first, names)
    for block in blocks:
        exec(block, names)
        assert torch.isfinite(names["loss"]) and names["loss"] > 0
        assert names["loss"].requires_grad
    assert len(blocks) == 6 and len(names["captions"]) == 4 and names["likeness"].shape == (4, 2)
    assert names["context_index"].tolist() == [0, 1, 1, 2, 3]


def test_every_file_of_the_table_is_there():
    files = re.findall(r"^\| `(\w+\.py)`", PAGE, flags=re.M)
    assert len(files) == 9 and all((ROOT / "modeling_mm" / "losses" / name).is_file() for name in files)


@pytest.mark.parametrize(("log", "table"), TABLES)
def test_the_measured_tables_are_the_logs(log, table):
    assert {*table.splitlines()} <= {*(ROOT / log).read_text(encoding="utf-8").splitlines()}


def test_every_measured_table_was_found():
    logs = ["pretraining_cost.txt", "matching_negatives.txt", "chunked_cross_entropy.txt"]
    assert [Path(log).name for log, _ in TABLES] == logs
