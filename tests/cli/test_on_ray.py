"""`--engine ray`: actors share the files out, one that is killed costs nothing, and shards hold each file once
(`make test-apps` for what needs Ray)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, WhisperProcessor
from typer.testing import CliRunner

import mm_console
from mm import MMImageProcessorPil, MMIndex, MMProcessor, convert
from mm.cli.on_ray import shares_of
from mm.cli.shards import MANIFEST, RUN, Shards, manifest_of, read_shards, write_shard
from whispers import lively_whisper, whisper_extractor, whisper_tokenizer

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
    assert not (folder / RUN).exists() and len(manifest_of(folder)) == 2
    (folder / late["shard"]).write_bytes(b"cut")
    with pytest.raises(ValueError, match="missing or damaged"):
        held(folder)
    spoiled = Shards(folder, {"model": "b"}, resume=True)
    assert spoiled.done() == {"a", "b"}
    spoiled.close(True)


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
    """One of three actors is killed: its shares go to others. Then the run is, and --resume goes on with it."""
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
        until(lambda: lines_of(out) >= 2, process)
        actors = until(lambda: len(found := actors_of(process.pid)) == 3 and found, process)
        os.kill(actors[0], signal.SIGKILL)
        before = lines_of(out)
        assert before < 11
        until(lambda: lines_of(out) >= before + 3, process)  # with two of them, and another in its place
        os.kill(process.pid, signal.SIGKILL)
    named = (out / MANIFEST).read_text().splitlines()
    assert before + 3 <= len(named) < 16 and (out / RUN).exists()
    done = run(*words, out, "--resume", env=environment)
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
def test_an_index_and_transcripts_of_actors_are_those_of_one_process(retriever, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a red".split()
    model, sounds, pictures = tmp_path / "model", tmp_path / "sounds", tmp_path / "pictures"
    text = {"vocab_size": len(words), "bos_token_id": 2, "eos_token_id": 3}
    retriever(text_config=text, dtype=torch.float32).save_pretrained(model)
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer).save_pretrained(model)
    pictures.mkdir()
    for number in range(20):
        Image.new("RGB", (16, 16), (number * 12, 99, 10)).save(pictures / f"{number:02}.png")
    (pictures / "05.png").write_bytes(b"junk")
    for engine in ("local", "ray"):
        given = ["--model", model, "--engine", engine, "--index", tmp_path / engine]
        done = run("embed", pictures, *given)
        assert done.returncode == 2 and done.stderr.count("05.png") == 1
        assert done.stdout == "19 files: 19 encoded, 0 as before, 0 deleted, 1 cannot be read\n"
    indexes = [MMIndex(tmp_path / engine) for engine in ("local", "ray")]
    assert indexes[0].items == indexes[1].items
    torch.testing.assert_close(indexes[1].embeddings, indexes[0].embeddings, rtol=0, atol=1e-5)
    rows = [one for one in read_shards(tmp_path / "ray" / "shards") if one["error"] is None]
    torch.testing.assert_close(torch.tensor([one["embedding"] for one in rows]), indexes[1].embeddings)

    lively_whisper().save_pretrained(tmp_path / "whisper")
    WhisperProcessor(whisper_extractor(), whisper_tokenizer()).save_pretrained(tmp_path / "whisper")
    convert(tmp_path / "whisper").save_pretrained(tmp_path / "ears")
    sounds.mkdir()
    noise = (np.random.default_rng(0).standard_normal(48000) / 5).astype(np.float32)
    for number in range(3):
        soundfile.write(sounds / f"{number}.wav", noise[: 16000 + 9000 * number], 16000, subtype="FLOAT")
    (sounds / "bad.wav").write_bytes(b"junk")
    given = ["transcribe", sounds, "--model", tmp_path / "ears", "--language", "en"]
    one = run(*given, "--json")
    assert run(*given, "--engine", "ray", "--actors", "2", "--output", tmp_path / "heard").returncode == 2
    told = [
        {"path": row["path"], **{name: segment[name] for name in ("start", "end", "text")}}
        for row in read_shards(tmp_path / "heard")
        for segment in row["segments"]
    ]
    assert told == [json.loads(line) for line in one.stdout.splitlines()] and len(told) > 5
