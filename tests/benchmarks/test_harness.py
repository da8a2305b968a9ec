"""What the benchmarks share: turns, ratios, equality first, other processes, memory, one report."""

import json
import mmap
import subprocess
import sys
import time

import harness
import pytest
import torch
from harness import Cost, Row


def asked(*arguments: str):
    return harness.options("a benchmark").parse_args(arguments)


def test_ways_take_turns_and_who_begins_changes():
    order = []
    ways = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    costs = harness.in_turn(ways, turns=3, cost=lambda way: Cost(0, way() or 1))
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]  # the first turn warms up
    assert {name: len(own) for name, own in costs.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_the_median_over_turns_not_that_of_medians():
    above = [Cost(1, 8), Cost(1, 2), Cost(1, 9)]
    below = [Cost(2, 4), Cost(2, 2), Cost(2, 3)]
    assert harness.ratio(above, below) == harness.Ratio(2, 1, 3)
    assert harness.ratio(above, below, of="wall").median == 0.5 and harness.median(below) == 3


def test_unequal_outputs_end_the_run_before_anything_is_timed():
    report = harness.Report()
    assert report.equal("scores", torch.tensor([1.0, 200.0]), torch.tensor([1.0, 200.001]), atol=1e-5) > 0
    for other in (torch.tensor([1.0, 2.0]), torch.ones(3), torch.full((2,), float("nan"))):
        with pytest.raises(RuntimeError, match="differ"):
            report.equal("scores", torch.ones(2), other, atol=1e-5)


@pytest.mark.parametrize(("wanted", "code"), [(1.5, 0), (2.5, 1)])
def test_a_log_holds_what_is_printed_and_json_what_was_measured(tmp_path, capsys, wanted, code):
    report = harness.Report(asked("--log", str(tmp_path / "log.txt")))
    report.row(task="a", ratio=2.0)
    report.want("a against b", 2.0, wanted)
    assert report.end() == code
    printed = capsys.readouterr().out
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == printed
    assert ("NOT AS WANTED: a against b" in printed) == bool(code)
    found = json.loads((tmp_path / "log.json").read_text(encoding="utf-8"))
    assert found["rows"] == [{"task": "a", "ratio": 2.0}] and len(found["faults"]) == code
    assert {"torch", "transformers", "processor", "threads", "load"} <= found["machine"].keys()


def test_a_race_is_a_line_a_row_and_one_more_line_of_the_history(tmp_path):
    costs = {"ours": Cost(1, 1), "other": Cost(3, 2)}
    for _ in range(2):
        report = harness.Report(asked("--log", str(tmp_path / "log.txt"), "--pairs", "3"))
        found = report.race(Row("a task", "ours", "other", 2.5, cost=costs.__getitem__))
        assert found == harness.Ratio(3, 3, 3) and report.end() == 0
    lines = (tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    assert len(told) == 2 and told[0]["script"] == "log" and told[0]["work"] == "a task"
    assert told[0]["wall"]["median"] == 3 and told[0]["cpu"]["median"] == 2 and told[0]["torch"] == torch.__version__


@pytest.mark.parametrize(("wanted", "code"), [(3.9, 0), (4.1, 1)])
def test_a_quick_race_wants_half_of_a_ratio_in_cpu_time_and_is_no_history(tmp_path, wanted, code):
    costs = {"ours": Cost(9, 1), "other": Cost(1, 2)}
    report = harness.Report(asked("--log", str(tmp_path / "log.txt"), "--quick"))
    report.race(Row("a task", "ours", "other", wanted, cost=costs.__getitem__))
    assert report.end() == code and not (tmp_path / "history.jsonl").exists()


def test_a_server_answers_each_line_and_says_when_it_ended_early():
    echo = "import json, sys\nprint(json.dumps('ready'), flush=True)\n"
    echo += "for line in sys.stdin: print(json.dumps({'wall': 1.0, 'cpu': float(line)}), flush=True)"
    server = harness.Server([sys.executable, "-c", echo])
    assert server.start == "ready" and [server.cost(str(n)) for n in (2, 3)] == [Cost(1.0, 2.0), Cost(1.0, 3.0)]
    server.end()
    with pytest.raises(RuntimeError, match="ended early"):
        harness.Server([sys.executable, "-c", "pass"])


def test_numbers_come_from_the_last_line_of_a_process_and_a_failing_one_says_why():
    assert harness.alone("-c", "print('hello'); print(1, 2.5)") == [1, 2.5]
    with pytest.raises(RuntimeError, match="no such thing"):
        harness.alone("-c", "raise ValueError('no such thing')")


@pytest.mark.linux
def test_a_peak_sees_memory_that_is_given_back():
    with harness.Peak() as peak:
        # pages of its own: a tensor may be given memory that the process has held before
        with mmap.mmap(-1, 32 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as big:
            big.write(b"x" * len(big))
            end = time.monotonic() + 30
            while peak.held < 30 * 2**20 and time.monotonic() < end:
                time.sleep(0.001)
    assert 30 * 2**20 <= peak.held <= peak.with_files + 2**20


@pytest.mark.parametrize("wrong", [["--pairs", "0"], ["--threads", "-1"], ["--pairs", "two"]])
def test_numbers_below_one_are_refused_before_anything_is_made(wrong, capsys):
    with pytest.raises(SystemExit):
        asked(*wrong)
    assert "accepted are whole numbers from 1" in capsys.readouterr().err


def test_a_log_in_no_folder_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        harness.Report(asked("--log", str(tmp_path / "no" / "a.txt")))


def test_a_commit_is_marked_where_any_file_of_the_checkout_was_changed(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "model.py").write_text("a = 1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(harness, "__file__", str(tmp_path / "benchmarks" / "harness.py"))
    assert harness.commit().isalnum()
    (tmp_path / "model.py").write_text("a = 2\n")
    assert harness.commit().endswith("+")
