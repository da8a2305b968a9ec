"""The report of a GPU: its models run on a CPU, small; without a GPU it says so."""

import json

import gpu_report
import pytest


@pytest.mark.slow
def test_small_models_make_a_page_and_json(tmp_path):
    where = tmp_path / "report.md"
    assert gpu_report.main(["--device", "cpu", "--tiny", "--pairs", "1", "--output", str(where)]) == 0
    rows = json.loads(where.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 8 and all(row["equal"] == 1 for row in rows if "fp32" in row["work"])
    page = where.read_text(encoding="utf-8")
    assert all(f"| {row['work']} |" in page for row in rows)


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu_report.main([])
    assert ended.value.code == 2 and "NVIDIA GPU" in capsys.readouterr().err
