"""`mm embed` and `mm search`, and the lists of files that commands take."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertTokenizer
from typer.testing import CliRunner

import mm_console
from mm import MMImageProcessorPil, MMIndex, MMProcessor
from mm.cli.media_lists import list_media
from mm.searching import build
from mm.searching.journal import parts_of


@pytest.fixture(scope="module")
def folder(retriever, tmp_path_factory):
    """A model, and pictures in a folder and a folder below."""
    folder = tmp_path_factory.mktemp("found")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue cat dog".split()
    processor = MMProcessor(
        MMImageProcessorPil(size={"height": 16, "width": 16}),
        BertTokenizer(vocab={word: number for number, word in enumerate(words)}),
    )
    text = {"vocab_size": len(words), "bos_token_id": 2, "eos_token_id": 3}
    retriever(text_config=text, dtype=torch.float32).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "pictures" / "below").mkdir(parents=True)
    for name in ("red.png", "blue.jpg", "below/green.webp"):
        picture = Image.new("RGB", (16, 16), Path(name).stem)
        picture.putpixel((1, 1), (9, 9, 9))
        picture.save(folder / "pictures" / name)
    return folder


def run(*words):
    return CliRunner().invoke(mm_console.app, [str(word) for word in words])


def test_a_folder_is_embedded_and_searched(folder, tmp_path):
    index, pictures = tmp_path / "index", folder / "pictures"
    done = run("embed", pictures, "--index", index, "--model", folder / "model")
    assert (done.exit_code, done.stdout) == (0, "3 files: 3 encoded, 0 as before, 0 deleted\n")
    (pictures / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run("embed", pictures, "--index", index, "--model", folder / "model", "--json")
    (pictures / "bad.png").unlink()
    told = json.loads(done.stdout)
    assert done.exit_code == 2 and (told["files"], told["encoded"]) == (3, 0)
    assert [Path(one["path"]).name for one in told["failed"]] == ["bad.png"] and "bad.png" in done.stderr
    done = run("search", index, pictures / "red.png", "--top-k", 2)
    scores = [line.split("\t") for line in done.stdout.splitlines()]
    assert scores[0] == ["1.0000", str(pictures / "red.png")] and len(scores) == 2
    done = run("search", index, "a red cat", "--rerank", "--json", "--sheet", tmp_path / "sheet.png")
    odds = [json.loads(line)["match"] for line in done.stdout.splitlines()]
    assert odds == sorted(odds, reverse=True) and len(odds) == 3 and (tmp_path / "sheet.png").is_file()


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
        batches.append(args[2])
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
    assert len(batches) == 4 and len(batches[-1]) == 1  # of their shares only the file that cannot be read
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
