"""`mm tune` without a GPU: the search through Triton's interpreter with a timer of the test's own, the table that it
writes, and the command where there is nothing to measure on."""

import json
import os
import subprocess
import sysconfig
from functools import partial
from pathlib import Path

import pytest
import torch

from mm.cli import tune
from mm.cli.tune import KERNELS, ROW_CLASSES, Target, Work, candidates, parse_targets, search
from mm.kernels import launch, tuning
from mm.kernels.tuning import MANY, Tile

MM = str(Path(sysconfig.get_path("scripts")) / "mm")
CPU = torch.device("cpu")
WORK = {16: Work(2, 1, 3, 20), 64: Work(1, 1, 17, 20), MANY: Work(1, 1, 70, 20)}
SMALL, OTHER = Tile(16, 16, 2, 1), Tile(16, 32, 2, 1)


@pytest.fixture
def table(monkeypatch):
    """`table(path)`: the tuning tables read this file from here on; afterwards none."""

    def read(path):
        monkeypatch.setenv(tuning.TABLE_VARIABLE, str(path))
        tuning.user_table.cache_clear()

    yield read
    monkeypatch.undo()
    tuning.user_table.cache_clear()


def tile_of(target: Target) -> Tile:
    return tuning.tile(target.kernel, 80, target.dtype.itemsize, target.head_dim, target.rows)


def found(target: Target, times: dict[Tile, float], tiles=None, say=lambda line: None) -> Tile:
    """The tile that the search takes, if launches last as long as `times` says, and 1 ms with any other tile."""

    def timer(run):
        run()
        return times.get(tile_of(target), 1.0)

    propose = [SMALL, OTHER] if tiles is None else tiles
    ((_, tile),) = search([target], CPU, timer, say, propose=lambda _: propose, work=WORK)
    return tile


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "rows", [64, *(pytest.param(n, marks=pytest.mark.slow) for n in ROW_CLASSES.values() if n != 64)]
)
def test_the_fastest_tile_is_found(kernel, rows):
    target = Target(kernel, torch.float32, 16, rows)
    assert found(target, {SMALL: 0.9, OTHER: 0.8}) == OTHER
    assert found(target, {SMALL: 0.8, OTHER: 0.9}) == SMALL


def test_the_tile_in_force_stays_unless_another_is_clearly_faster():
    target = Target("forward", torch.float32, 16, 64)
    assert found(target, {}) == tile_of(target)
    assert found(target, {SMALL: 0.99}) == tile_of(target)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_tile_that_computes_something_else_is_dropped(kernel, monkeypatch):
    name = "backward" if kernel in ("dq", "dkdv") else kernel
    right, target, lines = getattr(launch, name), Target(kernel, torch.float32, 16, 16), []

    def wrong(*arguments):
        results = right(*arguments)
        if tile_of(target) == OTHER:
            for result in (results,) if isinstance(results, torch.Tensor) else results:
                result[..., -1] += 1e-3
        return results

    monkeypatch.setattr(launch, name, wrong)
    assert found(target, {SMALL: 0.9, OTHER: 0.1}, say=lines.append) == SMALL
    (line,) = [line for line in lines if "dropped" in line]
    assert "16x32" in line and "wrong: error 1.0e-03" in line


def test_a_tile_that_writes_nothing_is_dropped(monkeypatch):
    right, target, lines = launch.mass, Target("mass", torch.float32, 16, 16), []

    def idle(query, key, *rest):
        if tile_of(target) != OTHER:
            return right(query, key, *rest)
        return query.new_empty(key.shape[0], query.shape[1], key.shape[2])

    monkeypatch.setattr(launch, "mass", idle)
    assert found(target, {SMALL: 0.9, OTHER: 0.1}, say=lines.append) == SMALL
    assert any("wrong: error nan" in line for line in lines)


def test_a_tile_that_does_not_compile_is_dropped():
    lines, odd = [], Tile(16, 24, 2, 1)
    target = Target("forward", torch.float32, 16, 16)
    assert found(target, {SMALL: 0.9, odd: 0.1}, [odd, SMALL], lines.append) == SMALL
    (line,) = [line for line in lines if "dropped" in line]
    assert "16x24, 2 warps, 1 stages: dropped, does not run" in line


def test_the_table_that_is_written_is_used(tmp_path, table):
    target = Target("forward", torch.float32, 40, MANY)
    before = tile_of(target)
    entries = dict(search([target], CPU, lambda run: 1 / tile_of(target).block_n, print, work=WORK,
                          propose=lambda _: [SMALL, Tile(16, 64, 2, 1)]))  # fmt: skip
    path = tmp_path / "table.json"
    tuning.write_table(path, "a device", {"triton": "3"}, entries)
    table(path)
    assert tile_of(target) == Tile(16, 64, 2, 1) != before
    assert tuning.tile("forward", 86, 4, 64, 1000) == Tile(16, 64, 2, 1), "as wide, as an sm_80 is measured"
    assert tuning.tile("forward", 80, 4, 40, 64) != Tile(16, 64, 2, 1), "fewer rows have an entry of their own"
    told = json.loads(path.read_text())
    assert (told["device"], told["versions"]) == ("a device", {"triton": "3"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"entries": [{}]}', '{"entries": [{"kernel": "forward"}]}'])
def test_a_broken_table_raises_and_is_named(tmp_path, table, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    table(path)
    with pytest.raises(ValueError, match=r"MM_KERNEL_TABLE=.*broken\.json.* is not a table that `mm tune` wrote"):
        tuning.tile("forward", 80, 2, 64, 16)


ENTRY = {"kernel": "forward", "arch": 80, "itemsize": 2, "head_dim": 64, "rows": 16}
SHAPE = {"block_m": 16, "block_n": 64, "num_warps": 2, "num_stages": 3}


def test_an_entry_of_a_table_may_leave_out_what_a_tile_has_a_default_for(tmp_path, table):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"entries": [ENTRY | {"tile": SHAPE | {"num_warps": 4}}]}))
    table(path)
    assert tuning.tile("forward", 80, 2, 64, 16) == Tile(16, 64, 4, 3)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("kernel", "sideways", "forward, dq, dkdv, mass"),
        ("arch", 86, "80, 90, 100"),
        ("itemsize", 8, "2, 4"),
        ("head_dim", 40, "16, 32, 64, 128, 256"),
        ("rows", 17, "16, 64, None"),
        ("rows", [16], "16, 64, None"),
        ("block_m", 48, "16, 32, 64, 128, 256"),
        ("block_m", 8, "16, 32, 64, 128, 256"),
        ("block_n", 0, "16, 32, 64, 128, 256"),
        ("block_n", 64.0, "16, 32, 64, 128, 256"),
        ("num_warps", 3, "1, 2, 4, 8, 16"),
        ("num_warps", True, "1, 2, 4, 8, 16"),
        ("num_stages", 0, "1, 2, 3"),
        ("maxnreg", 256, "32, 33"),
        ("lean", 1, "True, False"),
    ],
)
def test_an_entry_that_no_launch_could_use_raises_in_words(tmp_path, table, name, value, accepted):
    tile = SHAPE | ({name: value} if name not in ENTRY else {})
    entry = ENTRY | ({name: value} if name in ENTRY else {})
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"entries": [entry | {"tile": tile}]}))
    table(path)
    with pytest.raises(ValueError, match="MM_KERNEL_TABLE=.*table.json") as refusal:
        tuning.tile("forward", 80, 2, 64, 16)
    assert f"{name}={value!r} in" in str(refusal.value) and f"accepted: {accepted}" in str(refusal.value)


def test_two_entries_of_a_table_for_one_launch_raise(tmp_path, table):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"entries": [ENTRY | {"tile": SHAPE}, ENTRY | {"tile": SHAPE | {"num_warps": 4}}]}))
    table(path)
    with pytest.raises(ValueError, match="two entries"):
        tuning.tile("forward", 80, 2, 64, 16)


def test_a_table_that_is_not_there_raises(tmp_path, table):
    table(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"none\.json"):
        tuning.tile("forward", 80, 2, 64, 16)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", ROW_CLASSES.values())
def test_candidates_differ_and_fit_their_kernel(kernel, dtype, rows):
    tiles = list(candidates(Target(kernel, dtype, 64, rows)))
    assert len(set(tiles)) == len(tiles) > 8
    for tile in tiles:
        assert all(size >= 16 and size & (size - 1) == 0 for size in (tile.block_m, tile.block_n))
        assert tile.block_m <= max(rows, 16)
        assert tile.maxnreg * 32 * tile.num_warps <= 65536, "registers of a multiprocessor"


def test_targets_are_all_combinations_in_the_order_given():
    targets = parse_targets("128, 64", "float32,bfloat16", "dq", "many,16")
    assert len(targets) == 8 and targets[0] == Target("dq", torch.float32, 128, MANY)
    assert len(set(targets)) == 8


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"head_dims": "64,257"}, "--head-dims '257' is not known; give some of 1..256"),
        ({"head_dims": "40,64"}, "--head-dims: 40 and 64 share the table's entries"),
        ({"dtypes": "float64"}, "--dtypes 'float64' is not known; give some of float16, bfloat16, float32"),
        ({"dtypes": "float16,bfloat16"}, "--dtypes: float16 and bfloat16 share the table's entries"),
        ({"kernels": "forward,"}, "--kernels '' is not known"),
        ({"rows": "32"}, "--rows '32' is not known; give some of 16, 64, many"),
    ],
)
def test_what_is_not_known_raises_in_words(tmp_path, given, words):
    with pytest.raises(ValueError) as raised:
        tune.tune(tmp_path / "table.json", say=print, **given)
    assert words in str(raised.value)


def test_no_file_is_overwritten_and_no_folder_made(tmp_path):
    (tmp_path / "table.json").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        tune.tune(tmp_path / "table.json", say=print)
    with pytest.raises(ValueError, match="no folder"):
        tune.tune(tmp_path / "none" / "table.json", say=print)


def test_the_command_measures_and_says_how_to_use_the_table(tmp_path, monkeypatch, table):
    """With the CPU in the place of a GPU."""
    monkeypatch.setattr(tune, "_gpu", lambda: CPU)
    monkeypatch.setattr(tune, "_timer", lambda: lambda run: 1.0 + (tile_of(target) != SMALL))
    monkeypatch.setattr(tune, "search", partial(search, propose=lambda _: [SMALL], work=WORK))
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    target, path, lines = Target("mass", torch.float32, 16, 16), tmp_path / "table.json", []
    tune.tune(path, head_dims="16", dtypes="float32", kernels="mass", rows="16,64", say=lines.append)
    assert lines[-1] == f"2 entries are in {path}; to use them: export MM_KERNEL_TABLE={path}"
    told = json.loads(path.read_text())
    assert told["device"] == "a GPU" and set(told["versions"]) == {"torch", "triton", "mm"}
    table(path)
    assert tile_of(target) == SMALL


@pytest.mark.slow
def test_without_a_gpu_it_says_so_in_one_line_with_exit_code_2(tmp_path):
    command, hidden = [MM, "tune", str(tmp_path / "table.json")], {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=hidden)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "mm: tuning measures on an NVIDIA GPU, and torch.cuda.is_available() is False here\n"
    assert not list(tmp_path.iterdir())
