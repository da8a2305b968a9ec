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
from mm import MMImageProcessorPil, MMProcessor
from mm.cli.media_lists import list_media


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
