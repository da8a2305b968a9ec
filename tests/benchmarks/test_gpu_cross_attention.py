"""What benchmarks/gpu_cross_attention.py does without a GPU: settings and counts, every path's result, the table."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mm.benchmarks import gpu_cross_attention as benchmark
from mm.benchmarks.gpu_cross_attention import Case, Judge, Row, call_of, cases, measured_case, record, table
from mm.benchmarks.gpu_paths import PATHS, NotThere, draw
from mm.benchmarks.gpu_settings import ROOFS, SETTINGS, VISIBLE, Roof, Setting, cost, lengths_of, shortest_us
from mm.kernels.accuracy import largest

CPU = torch.device("cpu")
BLIP, VQA, MLLAMA = SETTINGS
TINY = Setting("tiny", 2, 3, 2, 4, 2, 20, 16, beams=True, backward=True)
ROOF = Roof(2000, 300, "a test")
WITHOUT_FLASH_ATTN = [name for name in PATHS if name != "flash-attn"]


# -- counts, by hand --------------------------------------------------------------------------------------------------


def test_forward_counts_are_those_by_hand():
    keys_and_values, queries_and_outputs = 2 * 8 * 577 * 12 * 64 * 2, 2 * 8 * 5 * 12 * 64 * 2
    assert cost(BLIP, "all", 2, "forward") == (keys_and_values + queries_and_outputs, 4 * 8 * 5 * 12 * 577 * 64)
    assert cost(VQA, "all", 2, "forward") == (7_090_176 + 3_932_160, 2_268_856_320)
    assert cost(MLLAMA, "all", 2, "forward").bytes == 26_230_784 + 65_536, "8 key heads, 32 query heads"


def test_what_is_hidden_costs_nothing():
    real = 288 + 360 + 432 + 504
    assert lengths_of(VQA) == [288, 360, 432, 504]
    for visible in ("lengths", "mask"):
        assert cost(VQA, visible, 2, "forward") == (2 * 12 * 64 * 2 * real + 3_932_160, 4 * 320 * 12 * 64 * real)


def test_backward_counts_are_those_by_hand():
    forward, backward = cost(VQA, "all", 2, "forward"), cost(VQA, "all", 2, "backward")
    assert backward.bytes == 2 * forward.bytes, "in: q, k, v, o, do; out: dq, dk, dv"
    assert backward.flop * 2 == forward.flop * 5
    hidden = cost(VQA, "lengths", 2, "backward")
    assert hidden.bytes == 2 * 12 * 64 * 2 * (288 + 360 + 432 + 504 + 4 * 577) + 2 * 3_932_160


def test_the_roof_is_memory_or_arithmetic():
    a100 = ROOFS["NVIDIA A100-SXM4-80GB"]
    assert round(shortest_us(cost(BLIP, "all", 2, "forward"), a100), 1) == 7.0
    assert round(shortest_us(cost(VQA, "all", 2, "forward"), a100), 1) == 7.3, "bound by arithmetic"
    assert round(shortest_us(cost(VQA, "all", 2, "forward"), a100._replace(tflops=None)), 1) == 5.4
    assert round(shortest_us(cost(MLLAMA, "all", 2, "forward"), ROOFS["NVIDIA H100 80GB HBM3"]), 1) == 7.8


@pytest.mark.parametrize("setting", [*SETTINGS, TINY])
def test_lengths_hide_something_and_leave_something(setting):
    lengths = lengths_of(setting)
    assert len(lengths) == setting.contexts and all(0 < length < setting.keys for length in lengths)


def test_every_setting_is_measured_forward_and_the_trained_one_backward():
    listed = list(cases(("bf16", "fp16"), VISIBLE))
    assert len(set(listed)) == len(listed) == 2 * 3 * 4
    assert {case.setting for case in listed if case.direction == "backward"} == {VQA}
    assert str(listed[0]) == "BLIP captions, 5 beams (B8 R5 T1 H12 S577 D64), forward, all keys, bf16"


# -- paths, through the interpreter -----------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [TINY, replace(TINY, kv_heads=4)], ids=["shared heads", "own heads"])
@pytest.mark.parametrize("visible", VISIBLE)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_every_path_computes_what_is_specified(setting, visible, direction):
    problem = draw(setting, visible, torch.float64, CPU)
    judge = Judge(problem, direction)
    judge.limits = [1e-12] * len(judge.limits)
    for name in WITHOUT_FLASH_ATTN:
        if name == "flex_attention" and direction == "backward":
            continue  # torch has none on a CPU
        way = PATHS[name](problem, False)
        assert judge.share(call_of(way, problem, direction)(), way.is_expanded and direction == "forward") <= 1, name


@pytest.mark.parametrize("visible", VISIBLE)
def test_ours_is_right_through_the_kernels(visible):
    for direction in ("forward", "backward"):
        problem = draw(TINY, visible, torch.float32, CPU)
        way = PATHS["ours"](problem, False)
        judge = Judge(problem, direction)
        judge.limits = [1e-5 * max(1.0, largest(truth)) for truth in judge.truths]
        assert judge.share(call_of(way, problem, direction)(), False) <= 1


def test_a_wrong_result_has_a_share_above_one_or_nan():
    problem = draw(TINY, "all", torch.float32, CPU)
    judge = Judge(problem, "forward")
    assert judge.share(judge.truths[0] + 1e-3, False) > 1
    assert math.isnan(judge.share(torch.full_like(judge.truths[0], torch.nan), False))
    judge = Judge(problem, "backward")
    assert math.isnan(judge.share([torch.full_like(judge.truths[0], torch.nan), *judge.truths[1:]], False))


def test_a_path_that_is_not_there_says_why():
    problem = draw(TINY, "mask", torch.float32, CPU)
    with pytest.raises(NotThere, match="flash-attn"):
        PATHS["flash-attn"](problem, False)
    with pytest.raises(NotThere, match="no beams"):
        PATHS["SDPA expanded + gather"](draw(replace(TINY, beams=False), "all", torch.float32, CPU), False)


def test_beams_stay_within_their_context():
    problem = draw(BLIP, "all", torch.float32, CPU)
    assert torch.equal(problem.beams // BLIP.rows, torch.arange(8).repeat_interleave(BLIP.rows))


# -- measuring, with a clock of the test's own ------------------------------------------------------------------------


def clock(call):
    call()
    return [0.001, 0.002, 0.004]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_case_has_a_row_for_every_path(direction):
    case = Case(TINY, direction, "lengths", "fp32")
    rows = measured_case(case, CPU, clock, replayed=lambda call: call, compiles=False)
    assert [row.path for row in rows] == list(PATHS)
    for row in rows:
        assert row.note if row.call is None else row.error is not None and row.call == [1.0, 2.0, 4.0]
        assert (row.graph is not None) == (row.call is not None and direction == "forward")
    told = json.loads(json.dumps(record(case, rows, ROOF)))
    assert told["setting"]["keys"] == 20 and told["dtype"] == "fp32" and len(told["paths"]) == len(PATHS)
    assert told["least"] == {
        "bytes": cost(TINY, "lengths", 4, direction)[0],
        "flop": cost(TINY, "lengths", 4, direction)[1],
    }


def test_a_failure_of_another_path_is_noted_and_of_ours_raised(monkeypatch):
    def fails(problem, compiles):
        raise RuntimeError("no memory left\nand so on")

    case = Case(TINY, "forward", "all", "fp32")
    monkeypatch.setitem(PATHS, "eager", fails)
    rows = {row.path: row for row in measured_case(case, CPU, clock, lambda call: call, False)}
    assert rows["eager"].note == "RuntimeError: no memory left" and rows["eager"].call is None
    monkeypatch.setitem(PATHS, "ours", fails)
    with pytest.raises(RuntimeError):
        measured_case(case, CPU, clock, lambda call: call, False)


def test_the_table_shows_ratios_rates_and_what_is_missing():
    rows = [
        Row("ours", 0.5, [20.0, 22.0, 24.0], [9.0, 10.0, 11.0]),
        Row("SDPA + fold", 0.25, [30.0, 33.0, 36.0], [14.0, 15.0, 16.0]),
        Row("eager", 1.0, [40.0, 44.0, 48.0]),
        Row("flash-attn", note="flash-attn is not installed"),
    ]
    lines = list(table(Case(BLIP, "forward", "all", "bf16"), rows, ROOF))
    assert lines[1] == "14.3 MB, 0.07 GFLOP: 7.2 us at the roof"
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[3:8] if line]
    assert {len(row) for row in cells} == {len(benchmark.COLUMNS)}
    assert cells[2] == ["ours", "20.0 / 22.0 / 24.0", "9.0 / 10.0 / 11.0", "1.00", "1430", "7.1", "72%", "0.50"]
    assert cells[3][3] == "1.50" and cells[4][2:4] == ["", "2.00"], "calls are compared with calls"
    assert "flash-attn is not installed" in lines[8]


def test_the_file_is_named_after_the_device():
    assert benchmark.file_name("NVIDIA A100-SXM4-80GB") == "nvidia-a100-sxm4-80gb.json"


@pytest.mark.slow
def test_without_a_gpu_it_says_so_in_one_sentence_with_exit_code_2():
    command = [sys.executable, str(Path(benchmark.__file__)), "--quick"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "this benchmark measures an NVIDIA GPU, and torch.cuda.is_available() is False here\n"
