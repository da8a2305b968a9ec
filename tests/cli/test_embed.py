"""`mm embed` and `mm search`, and the lists of files that commands take."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import ASTFeatureExtractor, BertTokenizer, SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor
from typer.testing import CliRunner

import mm_console
from mm import MMForImageTextRetrieval, MMIndex, MMProcessor
from mm.cli.media_lists import list_media, told_media
from mm.searching import build
from mm.searching.journal import parts_of


@pytest.fixture(scope="module")
def folder(saved_retriever, tmp_path_factory):
    """A model, and pictures in a folder and a folder below."""
    folder = tmp_path_factory.mktemp("found")
    saved_retriever(folder / "model")
    (folder / "pictures" / "below").mkdir(parents=True)
    for name in ("red.png", "blue.jpg", "below/green.webp"):
        picture = Image.new("RGB", (16, 16), Path(name).stem)
        picture.putpixel((1, 1), (9, 9, 9))
        picture.save(folder / "pictures" / name)
    return folder


def run(*words, **options):
    return CliRunner().invoke(mm_console.app, [str(word) for word in words], **options)


def test_a_folder_is_embedded_and_searched(folder, tmp_path):
    index, pictures = tmp_path / "index", folder / "pictures"
    done = run("embed", pictures, "-r", "--output", index, "--model", folder / "model", "--resume")
    assert (done.exit_code, done.stdout) == (0, "3 files: 3 encoded, 0 of known contents, 0 deleted\n")
    (pictures / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run("embed", pictures, "--recursive", "--index", index, "--model", folder / "model", "--json")
    (pictures / "bad.png").unlink()
    told = json.loads(done.stdout)
    assert done.exit_code == 2 and (told["files"], told["encoded"]) == (3, 0)
    assert [Path(one["path"]).name for one in told["failed"]] == ["bad.png"] and "bad.png" in done.stderr
    done = run("search", index, pictures / "red.png", "--top-k", 2)
    scores = [line.split("\t") for line in done.stdout.splitlines()]
    assert scores[0] == ["1.0000", str(pictures / "red.png")] and len(scores) == 2
    done = run("search", index, "a red cat", "--rerank", "--json", "--sheet", tmp_path / "sheet.png")
    chances = {line["path"]: line["match"] for line in map(json.loads, done.stdout.splitlines())}
    assert [*chances.values()] == sorted(chances.values(), reverse=True) and len(chances) == 3
    assert (tmp_path / "sheet.png").is_file()
    for path, chance in chances.items():  # is what mm match says
        told = run("match", path, "a red cat", "--model", folder / "model").stdout.split("\t")
        assert float(told[1]) == pytest.approx(chance, abs=1e-4)
    for sheet, told in (("sheet.png", "is there already"), ("sheet.txt", "must end in .png")):
        done = run("search", index, "a red cat", "--sheet", tmp_path / sheet)
        assert (done.exit_code, done.stdout) == (2, "") and told in done.stderr


def test_several_queries_are_searched_as_each_alone(folder, tmp_path):
    pictures, index = folder / "pictures", tmp_path / "index"
    run("embed", pictures, "--index", index, "--model", folder / "model")
    names = [pictures / "blue.jpg", pictures / "red.png"]
    alone = [f"{one}\t{line}" for one in names for line in run("search", index, one).stdout.splitlines()]
    assert len(alone) == 4
    for words, typed in (
        (names, None), ([pictures], None), ([f"{pictures}/*.*"], None), (["-"], f"{names[0]}\n{names[1]}\n"),
    ):  # fmt: skip
        done = run("search", index, *words, input=typed)
        assert (done.exit_code, done.stdout.splitlines()) == (0, alone)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"junk")
    done = run("search", index, bad, "a red cat", names[1], "--top-k", 1)
    assert done.exit_code == 2 and "bad.png" in done.stderr
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["a red cat", str(names[1])]
    done = run("search", index, *names, "--sheet", tmp_path / "sheet.png")
    assert done.exit_code == 2 and "--sheet is of one query" in done.stderr


def test_folders_below_are_taken_when_asked_for_and_not_lost_from_an_index(folder, tmp_path):
    pictures = folder / "pictures"
    words = ("embed", pictures, "--model", folder / "model", "--index")
    done = run(*words, tmp_path / "flat")
    assert done.exit_code == 0 and done.stdout.startswith("2 files: 2 encoded")
    assert done.stderr == f"mm: the folders below {pictures} are left out; --recursive takes them, too\n"
    done = run(*words, tmp_path / "index", "-r")
    assert (done.exit_code, done.stderr) == (0, "") and done.stdout.startswith("3 files: 3 encoded")
    done = run(*words, tmp_path / "index")
    assert done.exit_code == 2 and "holds 1 files in folders below, such as" in done.stderr
    assert len(MMIndex(tmp_path / "index")) == 3
    (tmp_path / "above" / "below").mkdir(parents=True)
    (tmp_path / "above" / "below" / "green.png").touch()
    with pytest.raises(ValueError, match="and some in folders below it, which --recursive takes"):
        list_media([tmp_path / "above"])


def test_files_of_equal_contents_are_encoded_once_and_said(folder, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((folder / "pictures" / "red.png").read_bytes())
    done = run("embed", tmp_path, "--index", tmp_path / "index", "--model", folder / "model")
    assert done.stdout == "2 files: 1 encoded, 1 of known contents, 0 deleted\n"


def test_three_processes_make_the_index_of_one_also_after_one_was_killed(folder, tmp_path, monkeypatch):
    """A killed process leaves its journal; the last one to end writes the index, with each fault told once."""
    pictures, one = tmp_path / "pictures", tmp_path / "one"
    pictures.mkdir()
    for number in range(14):
        Image.new("RGB", (16, 16), (number * 17, 99, 10)).save(pictures / f"{number:02}.png")
    (pictures / "05.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ("embed", pictures, "--model", folder / "model", "--batch-size", "2", "--json", "--index")
    run(*words, one)
    output, real, batches = tmp_path / "index", build._encode_batch, []

    def process(rank):
        monkeypatch.setenv("RANK", str(rank))
        return run(*words, output)

    def killed(*args):
        batches.append(args[1])
        if len(batches) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (process(0).stdout, process(2).stdout) == ("", "")
    monkeypatch.setattr(build, "_encode_batch", killed)
    process(1)
    assert not (output / "index.json").exists() and len(parts_of(output)) == 3
    batches.append(None)
    assert (process(2).stdout, process(0).stdout) == ("", "")
    assert len(batches) == 3  # of their shares only the file that cannot be read is tried again
    done = process(1)
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and (told["files"], told["deleted"]) == (13, [])
    assert [Path(fault["path"]).name for fault in told["failed"]] == ["05.png"]
    assert done.stderr.count("05.png") == 1 and parts_of(output) == []
    for size in (1, 3):
        assert MMIndex(output).items == MMIndex(one).items
        torch.testing.assert_close(MMIndex(output).embeddings, MMIndex(one).embeddings, rtol=0, atol=1e-5)
        (pictures / "13.png").unlink(missing_ok=True)
        monkeypatch.setenv("WORLD_SIZE", str(size))
        for rank in range(size):  # what is deleted leaves
            process(rank)
            assert (len(MMIndex(output)) == 12) == (rank == size - 1 or size == 1)
        Image.new("RGB", (16, 16), (13 * 17, 99, 10)).save(pictures / "13.png")
        for rank in range(size):
            process(rank)


WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a sound".split()
WAVES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "conv_dim": [8, 8],
    "conv_stride": [5, 4], "conv_kernel": [10, 4], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
HEARS = {
    "a tower that keeps to its mask": (
        {"model_type": "wav2vec2", **WAVES, "feat_extract_norm": "layer"},
        Wav2Vec2FeatureExtractor(return_attention_mask=True),
    ),
    "a tower that runs by length": (
        {"model_type": "wav2vec2", **WAVES}, Wav2Vec2FeatureExtractor(return_attention_mask=False),
    ),
    "frames": (
        {"model_type": "wav2vec2-bert", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 2, "feature_projection_input_dim": 16},
        SeamlessM4TFeatureExtractor(feature_size=8, num_mel_bins=8),
    ),
    "windows": (
        {"model_type": "audio-spectrogram-transformer", "hidden_size": 20, "intermediate_size": 24,
         "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4, "frequency_stride": 4, "time_stride": 4,
         "max_length": 12, "num_mel_bins": 8, "initializer_range": 0.1},
        ASTFeatureExtractor(max_length=12, num_mel_bins=8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEARS)
def test_sounds_of_unequal_length_are_embedded_together_as_each_alone(retriever, kind, tmp_path, monkeypatch):
    tower, extractor = HEARS[kind]
    text = {"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3}
    retriever(modalities=["audio"], audio_config=tower, text_config=text, dtype=torch.float32).save_pretrained(
        tmp_path / "model"
    )
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    MMProcessor(None, tokenizer, extractor).save_pretrained(tmp_path / "model")
    (tmp_path / "sounds").mkdir()
    lengths = [8000, 3100, 8100, 3150, 3200, 8500, 9000, 1600, 3250]
    for number, length in enumerate(lengths):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, length)
        soundfile.write(tmp_path / "sounds" / f"{number}.wav", noise, 16000)
    seen, real = [], build._encode_batch
    monkeypatch.setattr(build, "_encode_batch", lambda *given: seen.append(given[1]) or real(*given))
    done = run("embed", tmp_path / "sounds", "--index", tmp_path / "index", "--model", tmp_path / "model")
    assert done.exit_code == 0 and done.stdout.startswith("9 files: 9 encoded")
    assert sorted(len(read["input_features"]) for read in seen) == ([9] if kind == "windows" else [1, 4, 4])
    index, model = MMIndex(tmp_path / "index"), MMForImageTextRetrieval.from_pretrained(tmp_path / "model").eval()
    alone = torch.stack([model.encode(Path(item["path"])) for item in index.items])
    torch.testing.assert_close(index.embeddings, alone, rtol=0, atol=1e-5)
    assert torch.pdist(alone).min() > 1e-4  # no two are alike


def test_what_is_searched_is_written_line_by_line_and_goes_on(folder, tmp_path, monkeypatch):
    pictures, index, output = folder / "pictures", tmp_path / "index", tmp_path / "hits.jsonl"
    run("embed", pictures, "-r", "--index", index, "--model", folder / "model")
    (tmp_path / "bad.png").write_bytes(b"junk")
    queries = [pictures / "red.png", "a red cat", tmp_path / "bad.png", "blue", pictures / "blue.jpg", "cat"]
    words = ("search", index, *queries, "--top-k", 2)
    done = run(*words, "-o", output, "--batch-size", 2, "--workers", 2)
    assert (done.exit_code, done.stdout) == (2, "") and "1 of 6 queries cannot be read" in done.stderr
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["query"] for line in lines] == [str(query) for query in queries] and "error" in lines[2]
    alone = run(*words, "--json", "--batch-size", 1).stdout.splitlines()
    told = [{"query": line["query"], **hit} for line in lines for hit in line.get("hits", [])]
    for one, other in zip(told, map(json.loads, alone), strict=True):
        assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-5) and one == other
    whole = output.read_bytes()
    output.write_bytes(whole[: whole.index(b"\n", 400) + 20])  # killed in the middle of a line
    assert run(*words, "-o", output).stderr.endswith("is there already; --resume goes on with it\n")
    done = run(*words, "-o", output, "--resume")
    assert done.exit_code == 2 and "1 of 6 queries" in done.stderr
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["query"] for line in again] == [line["query"] for line in lines] and again[:2] == lines[:2]
    for one, other in zip(again, lines, strict=True):
        scores = [[hit.pop("score") for hit in line.get("hits", [])] for line in (one, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5) and one == other
    done = run(*words[:-1], 1, "-o", output, "--resume")
    assert done.exit_code == 2 and "top_k was 2 and is 1" in done.stderr
    run("embed", pictures, "--index", tmp_path / "other", "--model", folder / "model")
    done = run("search", tmp_path / "other", *words[2:], "-o", output, "--resume")
    assert done.exit_code == 2 and "index was" in done.stderr
    run("search", index, "a red cat", "--rerank", "-o", tmp_path / "reranked.jsonl")
    (line,) = map(json.loads, (tmp_path / "reranked.jsonl").read_text().splitlines())
    chances = [hit["match"] for hit in line["hits"]]
    assert chances == sorted(chances, reverse=True) and len(chances) == 3


def lines_in(output):
    return [part.read_bytes().count(b"\n") for part in parts_of(output)]


def until(true, process, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.linux
def test_processes_of_torchrun_that_are_killed_go_on_and_make_the_index_of_one(folder, tmp_path):
    """First one of two is, which torchrun starts again; then torchrun and both of them are."""
    pictures, one, output = tmp_path / "pictures", tmp_path / "one", tmp_path / "index"
    pictures.mkdir()
    for number in range(240):
        Image.new("RGB", (400, 400), (number, 99, 10)).save(pictures / f"{number:03}.png")
    (pictures / "005.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ["embed", pictures, "--model", folder / "model", "--batch-size", "1", "--index"]
    assert run(*words, one).exit_code == 2
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    start += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "mm_console"]
    command = [str(word) for word in (*start, *words, output)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: len(lines_in(output)) == 2 and min(lines_in(output)) >= 3, process)
        killed, before = children_of(process.pid), lines_in(output)
        assert len(killed) == 2
        os.kill(killed[0], signal.SIGKILL)
        enough = sum(before) + 20
        until(lambda: sum(lines_in(output)) >= enough and not {*killed} & {*children_of(process.pid)}, process)
        last = children_of(process.pid)
        for one_of_them in (process.pid, *last):
            os.kill(one_of_them, signal.SIGKILL)
    assert not (output / "index.json").exists() and sum(lines_in(output)) < 239
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "239 files: " in done.stdout and done.stderr.count("005.png") == 1
    assert MMIndex(output).items == MMIndex(one).items and parts_of(output) == []
    torch.testing.assert_close(MMIndex(output).embeddings, MMIndex(one).embeddings, rtol=0, atol=1e-5)


def children_of(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["red.png"], "--as text or --as file"),
        (["red.png", "--as", "picture"], "accepted: auto, text, file"),
        (["a cat", "--model", "MODEL/none"], "no saved model"),
    ],
)
def test_bad_queries_are_told_in_a_line(folder, tmp_path, words, told):
    run("embed", folder / "pictures", "--index", tmp_path / "index", "--model", folder / "model")
    done = run("search", tmp_path / "index", *words)
    assert done.exit_code == 2 and told in done.stderr and done.stderr.count("\n") == 1


def test_lists_take_files_folders_patterns_and_stdin(folder, monkeypatch):
    pictures = folder / "pictures"
    inside = [pictures / "blue.jpg", pictures / "red.png"]
    assert list_media([pictures]) == inside
    assert list_media([pictures], recursive=True) == [*inside, pictures / "below" / "green.webp"]
    assert list_media([f"{pictures}/*.png", pictures / "blue.jpg"]) == [inside[1], inside[0]]
    assert list_media([f"{pictures}/**/*.webp"]) == [pictures / "below" / "green.webp"]
    for text in (f"{inside[0]}\n\n{inside[1]}\n", f"{inside[0]}\0{inside[1]}\0"):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert list_media(["-"]) == inside
    with pytest.raises(ValueError, match="no file fits"):
        list_media([f"{pictures}/*.bmp"])
    with pytest.raises(ValueError, match="no sounds"):
        list_media([pictures], ["audio"])
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        list_media([pictures / "gone.png"])
    monkeypatch.setattr(os, "scandir", _no_entry(pictures / "below"))
    assert list_media([pictures]) == inside
    with pytest.raises(OSError, match="below cannot be read: Permission denied"):  # os.walk goes past it
        list_media([pictures], recursive=True)


def _no_entry(folder):
    real = os.scandir

    def scandir(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    return scandir


def test_media_that_the_model_does_not_read_are_counted_and_hidden_files_are_no_media(folder, tmp_path, capsys):
    for name in ("a.mp4", "b.MOV", "c.wav", "d.txt", "._e.png", ".f.mp4"):
        (tmp_path / name).touch()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    assert told_media([tmp_path], ["image"]) == [tmp_path / "red.png"]
    assert capsys.readouterr().err == "mm: 2 videos and 1 sound left out: the model reads pictures\n"
    assert told_media([tmp_path], ["image", "video", "audio"], True)[:2] == [tmp_path / "a.mp4", tmp_path / "b.MOV"]
    assert capsys.readouterr().err == ""
    done = run("embed", tmp_path, "--index", tmp_path / "index", "--model", folder / "model")
    assert (done.exit_code, done.stdout) == (0, "1 files: 1 encoded, 0 of known contents, 0 deleted\n")
    assert "2 videos and 1 sound left out" in done.stderr
    (tmp_path / "red.png").unlink()
    with pytest.raises(ValueError, match="no pictures in the folder .*, but 2 videos and 1 sound: looked for"):
        told_media([tmp_path], ["image"])
