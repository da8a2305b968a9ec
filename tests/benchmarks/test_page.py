"""benchmarks/page.py makes the page and its pictures of logs, and says what is missed."""

import json

import harness
import page
import pytest
from harness import Cost, Row


def write_log(folder, wanted):
    """A run of a race that is three times as fast, and of a curve."""
    asked = harness.options(None).parse_args(["--log", str(folder / "races.txt"), "--pairs", "2"])
    report = harness.Report(asked)
    costs = {"ours": Cost(1, 1), "other": Cost(3, 2)}
    row = Row("a | task", "ours", "other", wanted, against="another program", cost=costs.__getitem__)
    report.race(row)
    report.end()
    rows = [{"work": "beams", "sizes": [1, 2, 4], "seconds": [1.0, 1.1, 1.4], "exponent": 0.24}]
    phase = {"model": "A model", "phase": "head", "seconds": 0.004, "bytes": 2e6, "operations": 3e9, "floor": 0.002}
    phase |= {"bound": "memory", "times": 2.0, "most": "addmm 90%"}
    for name, found in (("growth", rows), ("floor", [phase])):
        told = {"machine": report.machine, "rows": found, "faults": []}
        (folder / f"{name}.json").write_text(json.dumps(told), encoding="utf-8")
    with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(rows[0]) + "\n")


def test_the_page_has_a_row_a_picture_and_the_machine_for_each_log(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps([1, 2]), encoding="utf-8")  # a log of another kind
    write_log(tmp_path, wanted=2.5)
    assert page.main(["--logs", str(tmp_path), "--output", str(tmp_path)]) == 0
    text = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert "| a \\| task | another program | 1.000 | 3.000 | 3.00 | 3.00 to 3.00 | 2.00 | 2.50 |" in text
    assert (
        "| beams | 1 to 4 | 0.24 |" in text and text.count("transformers ") >= 2 and "other" not in page.runs(tmp_path)
    )
    assert "| A model, head | 4.00 | 2.0 | 3.00 | 2.00 | memory | 2.0 | addmm 90% |" in text
    assert "History" not in text
    for name in ("races", "growth", "floor"):
        drawn = (tmp_path / "pictures" / f"benchmarks-{name}.svg").read_text(encoding="utf-8")
        assert f"pictures/benchmarks-{name}.svg" in text and "</svg>" in drawn
    write_log(tmp_path, wanted=4)
    page.main(["--logs", str(tmp_path), "--output", str(tmp_path)])
    again = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert "4.00 (missed) |" in again and "## History" in again and len(page.history(tmp_path)) == 4


def test_no_logs_are_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        page.main(["--logs", str(tmp_path), "--output", str(tmp_path)])
    assert "make bench" in capsys.readouterr().err and not (tmp_path / "benchmarks.md").exists()
