"""Long work: files are read ahead and in batches of one shape, results come in order, and a killed run goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mm_console
from mm import MediaDecodeError
from mm.cli.long_work import Results, SharedResults, note_of, open_results
from mm.processing.reading import in_batches

PICTURES = sorted((Path(__file__).resolve().parents[2] / "examples" / "pictures").glob("*.png"))


class Sizes:
    """A processor whose tensors are as large as the picture."""

    def __call__(self, images, return_tensors):
        ((path,),) = images
        if "bad" in path.name:
            raise MediaDecodeError(f"cannot decode {path.name}").at("images[0][0]")
        side = int(path.stem.split("-")[1])
        return {"pixel_values": torch.full((1, side), float(path.stem.split("-")[0]))}


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order_from_batches_of_one_shape(workers):
    names = [f"{number}-{1 + number % 3}.png" for number in range(40)]
    paths = [Path(name) for name in [*names[:5], "bad.png", *names[5:], "a.mp4"]]
    batches = []

    def work(inputs, numbers):
        batches.append(tuple(inputs["pixel_values"].shape))
        assert len(inputs["pixel_values"]) == len(numbers) <= 4
        assert [paths[number].stem.split("-")[0] for number in numbers] == [
            str(int(value)) for value in inputs["pixel_values"][:, 0]
        ]
        return inputs["pixel_values"][:, 0].tolist()

    found = list(in_batches(paths, Sizes(), ["image"], work, 4, workers))
    assert [number for number, _ in found] == list(range(42))
    results = [result for _, result in found]
    assert str(results[5]) == "cannot decode bad.png"
    assert str(results[41]) == "cannot read a.mp4: it is a video, and the model reads pictures"
    assert [*results[:5], *results[6:41]] == [float(number) for number in range(40)]
    assert len(batches) <= 12 and {width for _, width in batches} == {1, 2, 3}


class Lengths:
    """A processor of sounds that are heard at any length; what a worker adds beside them is the name."""

    feature_extractor = None

    def __call__(self, audio, return_tensors):
        length = int(audio[0][0].stem)
        return {"input_features": torch.arange(1, length + 1.0)[None, None]}


@pytest.mark.parametrize("workers", [0, 2])
def test_sounds_of_about_one_length_share_a_batch_and_a_mask_says_what_is_real(workers, monkeypatch):
    lengths = [100, 104, 400, 101, 430, 3, 100, 420, 3, 5000, 4900, 100]
    paths, batches = [Path(f"{length}.wav") for length in lengths], []

    def work(inputs, numbers, names):
        sounds, mask = inputs["input_features"], inputs.get("input_features_mask")
        assert [lengths[number] for number in numbers] == [int(Path(name).stem) for name in names]
        own = [lengths[number] for number in numbers]
        mask = torch.ones(sounds.shape, dtype=torch.bool) if mask is None else mask
        assert (mask.sum(-1)[:, 0].tolist(), sounds.shape[2]) == (own, max(own)) and max(own) <= 1.25 * min(own)
        assert torch.equal(sounds * mask, sounds) and not sounds[mask].eq(0).any()
        assert len(own) == 1 or sounds.numel() <= 5000
        batches.append(sorted(own))
        return own

    monkeypatch.setattr("mm.processing.reading.TOGETHER", 5000)
    found = list(in_batches(paths, Lengths(), ["audio"], work, 4, workers, beside=str))
    assert found == list(enumerate(lengths))
    assert sorted(batches) == [[3, 3], [100], [100, 100, 101, 104], [400], [420, 430], [4900], [5000]]


@pytest.mark.parametrize(("workers", "cores", "wanted"), [(2, 2, 1), (2, 8, 3), (2, 4, 2), (0, 8, 3)])
def test_workers_and_the_model_share_the_cores(workers, cores, wanted, monkeypatch):
    """More threads than cores made a folder of pictures take half as long again."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr("mm.processing.reading.sys.platform", "linux")
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        list(in_batches([Path("1-1.png")], Sizes(), ["image"], lambda *_: seen.append(torch.get_num_threads()) or [1],
                        4, workers))  # fmt: skip
        assert seen == [wanted] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_file_of_results_goes_on_after_its_last_whole_line(tmp_path):
    path = tmp_path / "out.jsonl"
    results = Results(path, {"model": "a"})
    results.write("1.png", caption="one")
    results.fail("2.png", "broken")
    results.close(complete=False)
    with path.open("a") as file:
        file.write('{"path": "3.p')
    with pytest.raises(ValueError, match="--resume goes on"):
        Results(path, {"model": "a"})
    with pytest.raises(ValueError, match="model was 'a' and is 'b'"):
        Results(path, {"model": "b"}, resume=True)
    results = Results(path, {"model": "a"}, resume=True)
    assert results.done == {"1.png", "2.png"} and results.faults == [("2.png", "broken")]
    results.write("3.png", caption="three")
    results.close(complete=True)
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == ["1.png", "2.png", "3.png"]
    with pytest.raises(ValueError, match="model was 'a' and is 'b'"):  # also of a run that is complete
        Results(path, {"model": "b"}, resume=True)
    Results(path, {"model": "a", "batch_size": 3, "device": "cpu"}, resume=True).close(True)
    assert sorted(os.listdir(tmp_path)) == [".out.jsonl.run.json", "out.jsonl"]
    note_of(path).unlink()
    path.write_text("no result\n")
    with pytest.raises(ValueError, match="line 1 of"):
        Results(path, {}, resume=True)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["caption", "classify"])
def test_a_command_that_was_killed_goes_on_without_doing_or_losing_any_twice(name, saved_retriever, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(60):
        with Image.open(PICTURES[number % len(PICTURES)]) as picture:
            picture.convert("RGBA").resize((300 + number, 300)).save(folder / f"{number:02}.png")
    (folder / "07.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    given = []
    if name == "classify":
        given = ["--model", saved_retriever(tmp_path / "model"), "--labels", "red cat,blue dog", "--top-k", "2"]
    command = [sys.executable, "-W", "ignore", "-m", "mm_console", name, folder, *given, "--batch-size", "2"]
    command.append("--output")
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert subprocess.run([*command, whole], capture_output=True).returncode == 2
    with subprocess.Popen([*command, output], stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            if output.exists() and output.read_bytes().count(b"\n") >= 10:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert "Traceback" not in process.stderr.read()  # of the two that read ahead
    before = output.read_bytes()
    held = before[: before.rfind(b"\n") + 1]
    assert 10 <= held.count(b"\n") < 60
    done = subprocess.run([*command, output, "--resume"], capture_output=True, text=True)
    assert done.returncode == 2 and "1 of 60 files" in done.stderr and "07.png" in done.stderr
    assert output.read_bytes().startswith(held)
    assert lines_of(output) == lines_of(whole) and len(lines_of(whole)) == 60


def test_the_output_of_captions_is_a_file_of_results(tmp_path):
    output = tmp_path / "out.jsonl"
    words = ["caption", str(PICTURES[0]), str(PICTURES[1]), "--output", str(output)]
    assert CliRunner().invoke(mm_console.app, words).exit_code == 0
    assert [Path(line["path"]) for line in lines_of(output)] == PICTURES[:2]
    done = CliRunner().invoke(mm_console.app, words)
    assert done.exit_code == 2 and "--resume goes on" in done.stderr
    done = CliRunner().invoke(mm_console.app, [*words, str(PICTURES[2]), "--resume"])
    assert done.exit_code == 0 and [Path(line["path"]) for line in lines_of(output)] == PICTURES[:3]
    done = CliRunner().invoke(mm_console.app, ["caption", str(PICTURES[0]), "--resume"])
    assert done.exit_code == 2 and "--output" in done.stderr


def share(path, rank, names, do, resume=True, size=2, **settings):
    """What a process does: a line for each of its names; killed at the one that `do` gives False for."""
    process = os.fork()
    if process == 0:
        try:
            held = SharedResults(path, settings, resume, names, rank, size)
            for name in held.names:
                if not do(name):
                    held._file.write('{"path": "cut')
                    held._file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                with Path(f"{path}.log").open("a") as log:
                    log.write(f"{name}\n")
                held.fail(name, "broken") if "bad" in name else held.write(name, by=name.upper())
            held.close(True)
        finally:
            os._exit(3)
        os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_several_processes_join_their_lines_once_and_go_on_after_one_is_killed(tmp_path):
    names = [f"{number}.png" for number in range(9)] + ["bad.png"]
    path, log = tmp_path / "out.jsonl", tmp_path / "out.jsonl.log"
    share(path, 0, names, lambda name: True)
    assert share(path, 1, names, lambda name: name != "5.png") == -signal.SIGKILL
    assert not path.exists() and len(log.read_text().split()) == 7
    with pytest.raises(ValueError, match="processes was 2 and is 3"):
        SharedResults(path, {}, True, names, 0, 3)
    with pytest.raises(ValueError, match="begun by several processes"):
        open_results(path, {}, True, [Path(name) for name in names])
    for rank in (0, 1):  # as torchrun --max-restarts starts all of them again
        share(path, rank, names, lambda name: True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["path"] for line in lines] == names and lines[-1] == {"path": "bad.png", "error": "broken"}
    assert sorted(log.read_text().split()) == sorted(names)  # none was done twice
    assert sorted(entry.name for entry in tmp_path.glob("[!.]*")) == ["out.jsonl", "out.jsonl.log"]
    assert [entry.name for entry in tmp_path.glob(".*")] == [".out.jsonl.run.json"]
    with pytest.raises(ValueError, match="model was 'a' and is None"):
        note_of(path).write_text('{"model": "a"}')
        SharedResults(path, {}, True, names, 0, 2)
    note_of(path).write_text("{}")
    before = path.read_bytes()
    for rank in (1, 0):  # new files since: the lines that are there stay
        share(path, rank, [*names, "new.png", "newer.png", "newest.png"], lambda name: True)
    assert path.read_bytes().startswith(before) and len(path.read_text().splitlines()) == 13
    with pytest.raises(ValueError, match="--resume goes on"):
        SharedResults(path, {}, False, names, 0, 2)


@pytest.mark.slow
def test_two_processes_caption_as_one_does(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"junk")
    words = [sys.executable, "-m", "mm_console", "caption", *map(str, PICTURES), str(tmp_path / "bad.png"), "--output"]
    one = subprocess.run([*words, str(tmp_path / "one.jsonl")], capture_output=True, text=True)
    both = [
        subprocess.Popen(
            [*words, str(tmp_path / "two.jsonl"), "--resume"], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    told = [process.communicate()[1] for process in both]
    assert one.returncode == 2 and [process.returncode for process in both] == [0, 0]
    assert sum("1 of 13 files cannot be read" in text for text in told) == 1
    assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "one.jsonl").read_text()
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["bad.png", "one.jsonl", "two.jsonl"]
    notes = [(tmp_path / f".{name}.jsonl.run.json").read_text() for name in ("one", "two")]
    assert notes[0] == notes[1]
