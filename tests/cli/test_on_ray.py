"""`--engine ray`: actors share the files out, one that is killed costs nothing, and shards hold each file once
(`make test-apps` for what needs Ray)."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mm_console
from mm import MMIndex
from mm.cli import shards as shards_file
from mm.cli.on_ray import Replica, shares_of
from mm.cli.shards import MANIFEST, RUN, Shards, manifest_of, parquet, read_shards, write_shard
from whispers import saved_whisper

PICTURES = sorted((Path(__file__).resolve().parents[2] / "examples" / "pictures").glob("*.png"))


def row(name, **values):
    return {"path": name, "caption": name.upper(), **values}


def held(folder):
    return [one["path"] for one in read_shards(folder)]


def test_a_shard_that_the_manifest_does_not_name_is_no_result_and_one_done_twice_counts_once(tmp_path):
    folder = tmp_path / "out"
    shards = Shards(folder, {"model": "a"})
    late = write_shard(folder, "caption", 2, [row("c"), row("d", caption=None, error="broken")])
    for _ in range(2):
        shards.add(late)
    shards.add(write_shard(folder, "caption", 0, [row("a"), row("b")]))
    write_shard(folder, "caption", 4, [row("e")])  # its worker, or the run, was killed here
    with (folder / MANIFEST).open("a") as file:
        file.write('{"shard": "part')
    assert held(folder) == ["a", "b", "c", "d"] and [one["error"] for one in read_shards(folder)][3] == "broken"
    with pytest.raises(ValueError, match="another process writes"):
        Shards(folder, {"model": "a"}, resume=True)
    shards.close(False)
    with pytest.raises(ValueError, match="--resume goes on"):
        Shards(folder, {"model": "a"})
    with pytest.raises(ValueError, match="model was 'a' and is 'b'"):
        Shards(folder, {"model": "b"}, resume=True)
    again = Shards(folder, {"model": "a"}, resume=True)
    assert again.done() == set("abcd") and len(list(folder.glob("part-*"))) == 2
    assert shares_of(list("abcdefg"), again.done()) == [(4, ["e"]), (5, ["f"]), (6, ["g"])]
    again.close(True)
    assert (folder / RUN).exists() and len(manifest_of(folder)) == 2
    with pytest.raises(ValueError, match="model was 'a' and is 'b'"):  # also of a run that is complete
        Shards(folder, {"model": "b"}, resume=True)
    (folder / late["shard"]).write_bytes(b"cut")
    with pytest.raises(ValueError, match="missing or damaged"):
        held(folder)
    spoiled = Shards(folder, {"model": "a", "batch_size": 1}, resume=True)
    assert spoiled.done() == {"a", "b"}
    spoiled.close(True)


def test_shards_that_are_made_anew_go_on_only_where_they_were_not_complete(tmp_path):
    def shards(*names, complete, **settings):
        held = Shards(tmp_path, settings, anew=True)
        before = held.done()
        for name in names:
            held.add(write_shard(tmp_path, "embed", 0, [{"path": name, "error": None}]))
        held.close(complete)
        return before

    assert shards("a", complete=False, model="x") == set()
    assert shards("b", complete=True, model="x") == {"a"}  # it was killed, and goes on
    with pytest.raises(ValueError, match="command was None and is 'caption'"):
        Shards(tmp_path, {"model": "x", "command": "caption"}, resume=True)
    assert shards("c", complete=False, model="x") == set()
    assert shards(complete=True, model="y") == set()


def test_the_readers_that_people_have_make_one_table_of_a_folder_of_shards(tmp_path):
    """In the order in which the files were given, whatever the order in which they were done."""
    from datasets import load_dataset

    folder = tmp_path / "captions"
    shards = Shards(folder, {"model": "a"})
    for start in (1024, 0, 512):
        shards.add(write_shard(folder, "caption", start, [row(f"{start + number}", score=0.5) for number in range(9)]))
    shards.add(write_shard(folder, "caption", 9999, [row("z", caption=None, error="broken")]))
    shards.close(True)
    expected = list(read_shards(folder))
    assert [one["path"] for one in expected][:10] == [*map(str, range(9)), "512"]
    shown = {"data_files": str(folder / "*.parquet"), "split": "train", "cache_dir": str(tmp_path / "cache")}
    found = load_dataset("parquet", **shown)
    assert found.to_list() == expected
    assert parquet().read_table(folder).to_pylist() == expected
    frame = import_module("pandas").read_parquet(folder)
    assert frame.path.tolist() == [one["path"] for one in expected] and frame.error.tolist()[-1] == "broken"


def test_what_an_actor_cannot_do_is_told_in_words(tmp_path, monkeypatch):
    def make():
        return lambda names: [row(name) for name in names]

    share = json.dumps([0, ["a", "b"]])
    line = Replica(str(tmp_path), "caption", make, {})._line(share)
    assert line["files"] == 2 and (tmp_path / line["shard"]).stat().st_size == line["bytes"]

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards_file.os, "replace", full)
    assert "No space left" in Replica(str(tmp_path), "caption", make, {})._line(share)["fault"]
    assert "unexpected keyword" in Replica(str(tmp_path), "caption", make, {"model": "x"})._line(share)["fault"]
    monkeypatch.undo()
    shards = Shards(tmp_path / "new", {})
    (tmp_path / "new" / ".part-1.parquet.abc.writing").touch()  # of a worker that was killed as it wrote
    shards.close(False)
    Shards(tmp_path / "new", {}, resume=True).close(True)
    assert not list((tmp_path / "new").glob("*part*"))


def test_options_of_ray_are_told_in_words(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(ValueError, match="holds other files"):
        Shards(tmp_path / "full", {})
    for words, told in ((["--engine", "spark"], "accepted: local, ray"), (["--actors", "2"], "of --engine ray")):
        done = CliRunner().invoke(mm_console.app, ["caption", str(PICTURES[0]), *words])
        assert done.exit_code == 2 and told in done.stderr


def run(*words, **options):
    command = [sys.executable, "-W", "ignore", "-m", "mm_console", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, **options)


def actors_of(parent):
    """Processes of Ray's actors that descend from a process."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name, after = (place / "stat").read_text().rsplit(")", 1)
            parents[int(place.name)] = int(after.split()[1]), (place / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue

    def descends(process):
        while process in parents and process != parent:
            process = parents[process][0]
        return process == parent

    return [process for process, (_, told) in parents.items() if b"ray::MapWorker" in told and descends(process)]


def until(true, process, seconds=300):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    return found


def lines_of(folder):
    try:
        return (folder / MANIFEST).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


@pytest.mark.apps
@pytest.mark.linux
def test_captions_are_the_same_where_an_actor_and_then_the_whole_run_are_killed(tmp_path):
    """One of three actors is killed before it has done anything and one in the middle: their shares go to others. Then
    the run is, and --resume goes on with it, in batches of another size."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(96):
        with Image.open(PICTURES[number % len(PICTURES)]) as picture:
            picture.convert("RGBA").resize((300 + number, 300)).save(folder / f"{number:03}.png")
    (folder / "007.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run("caption", folder, "--output", tmp_path / "one.jsonl", "--json").returncode == 2
    expected = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    words = ["caption", folder, "--engine", "ray", "--actors", "3", "--batch-size", "3", "--json", "--output"]
    environment = {**os.environ, "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}

    out = tmp_path / "out"
    command = [sys.executable, "-W", "ignore", "-m", "mm_console", *map(str, words), str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment) as process:
        os.kill(until(lambda: actors_of(process.pid), process)[-1], signal.SIGKILL)
        until(lambda: lines_of(out) >= 2, process)
        actors = until(lambda: len(found := actors_of(process.pid)) == 3 and found, process)
        os.kill(actors[0], signal.SIGKILL)
        before = lines_of(out)
        assert before < 11
        until(lambda: lines_of(out) >= before + 3, process)  # with two of them, and another in its place
        os.kill(process.pid, signal.SIGKILL)
    named = (out / MANIFEST).read_text().splitlines()
    assert before + 3 <= len(named) < 16 and (out / RUN).exists()
    other = run(*words, out, "--resume", "--num-beams", "2", env=environment)
    assert other.returncode == 2 and "num_beams was None and is 2" in other.stderr
    done = run(*words, out, "--resume", "--batch-size", "5", env=environment)
    assert done.returncode == 2 and "1 of 96 files cannot be read" in done.stderr and "007.png" in done.stderr
    assert "96 files in 16 shards" in done.stdout
    assert (out / MANIFEST).read_text().splitlines()[: len(named)] == named  # what was done was not done again
    found = list(read_shards(out))
    assert [one["path"] for one in found] == [one["path"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["caption"] == other.get("caption") and one["error"] == other.get("error")
        assert one["score"] == pytest.approx(other.get("score"), abs=1e-5)
    assert sorted(path.name for path in out.glob("part-*")) == sorted(line["shard"] for line in manifest_of(out))


@pytest.mark.apps
@pytest.mark.linux
def test_an_index_and_transcripts_of_actors_are_those_of_one_process(saved_retriever, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    model, sounds, pictures = saved_retriever(tmp_path / "model"), tmp_path / "sounds", tmp_path / "pictures"
    pictures.mkdir()
    for number in range(20):
        Image.new("RGB", (16, 16), (number * 12, 99, 10)).save(pictures / f"{number:02}.png")
    (pictures / "05.png").write_bytes(b"junk")
    for engine in ("local", "ray"):
        given = ["--model", model, "--engine", engine, "--index", tmp_path / engine]
        done = run("embed", pictures, *given)
        assert done.returncode == 2 and done.stderr.count("05.png") == 1
        assert done.stdout == "19 files: 19 encoded, 0 of known contents, 0 deleted, 1 cannot be read\n"
    indexes = [MMIndex(tmp_path / engine) for engine in ("local", "ray")]
    assert indexes[0].items == indexes[1].items
    torch.testing.assert_close(indexes[1].embeddings, indexes[0].embeddings, rtol=0, atol=1e-5)
    rows = [one for one in read_shards(tmp_path / "ray" / "shards") if one["error"] is None]
    torch.testing.assert_close(torch.tensor([one["embedding"] for one in rows]), indexes[1].embeddings)

    ears = saved_whisper(tmp_path / "whisper")
    sounds.mkdir()
    noise = (np.random.default_rng(0).standard_normal(48000) / 5).astype(np.float32)
    for number in range(3):
        soundfile.write(sounds / f"{number}.wav", noise[: 16000 + 9000 * number], 16000, subtype="FLOAT")
    (sounds / "bad.wav").write_bytes(b"junk")
    given = ["transcribe", sounds, "--model", ears, "--language", "en"]
    one = run(*given, "--json")
    assert run(*given, "--engine", "ray", "--actors", "2", "--output", tmp_path / "heard").returncode == 2
    told = [
        {"path": row["path"], **{name: segment[name] for name in ("start", "end", "text")}}
        for row in read_shards(tmp_path / "heard")
        for segment in row["segments"]
    ]
    assert told == [json.loads(line) for line in one.stdout.splitlines()] and len(told) > 5
