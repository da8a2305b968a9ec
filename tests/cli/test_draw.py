"""`mm draw`: its files, sheet and lines are what draw() gives."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mm_console
from mm import MMConfig, MMForImageTextRetrieval, MMForMaskedLM, MMImageProcessorPil
from small_drawer import NAMES, WORDS, small_drawer, small_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models that draw in order and in parallel, and one that compares."""
    folder, processor = tmp_path_factory.mktemp("drawers"), small_processor()
    for name, model in {"order": small_drawer(processor), "parallel": small_drawer(processor, MMForMaskedLM)}.items():
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    stack = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**stack, "vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    for name, losses in {"compares": ["itc"], "matches": ["itc", "itm"]}.items():
        torch.manual_seed(0)
        config = MMConfig(
            vision_config={**stack, "image_size": 16, "patch_size": 8, "initializer_range": 0.3},
            text_config={**text, "is_causal": False, "initializer_range": 0.3},
            objectives={"pretraining_losses": dict.fromkeys(losses, 1.0), "projection_dim": 8},
        )
        MMForImageTextRetrieval(config).save_pretrained(folder / name)
        pictures = MMImageProcessorPil(size={"height": 16, "width": 16})
        small_processor(image_processor=pictures, image_tokenizer=None, prompt_to="decoder").save_pretrained(
            folder / name
        )
    return folder


def run(*words, **options):
    return CliRunner().invoke(mm_console.app, [str(word) for word in words], **options)


def expected(folder, kind, texts, n, **settings) -> list[bytes]:
    processor = small_processor()
    model = (MMForMaskedLM if kind == "parallel" else type(small_drawer(processor))).from_pretrained(folder / kind)
    ids = model.draw(**processor(text=texts, return_tensors="pt"), num_return_sequences=n, **settings)
    return [one.tobytes() for one in processor.decode_images(ids)]


@pytest.mark.parametrize("kind", ["order", "parallel"])
def test_files_lines_and_sheet_hold_the_pictures_of_draw(folder, tmp_path, kind):
    steps = ["--steps", 4] if kind == "parallel" else []
    sheet = tmp_path / "sheet.png"
    done = run(
        "draw", "red apple", "blue boat", "--model", folder / kind, "--n", 2, "--seed", 7, "--guidance", 2.5,
        "--temperature", 0.8, "--top-k", 9, "--batch-size", 1, "-o", tmp_path / "out", "--sheet", sheet, *steps,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [text for text, _ in lines] == ["red apple"] * 2 + ["blue boat"] * 2
    assert [Path(path).name for _, path in lines][:2] == ["red_apple-7-1.png", "red_apple-7-2.png"]
    settings = {"seed": 7, "guidance_scale": 2.5, "temperature": 0.8, "top_k": 9} | ({"steps": 4} if steps else {})
    drawn = [Image.open(path).tobytes() for _, path in lines]
    assert drawn == expected(folder, kind, ["red apple", "blue boat"], 2, **settings)
    with Image.open(sheet) as found:
        assert found.width > 2 * 128 and found.height > 2 * 128
    again = run("draw", "red apple", "--model", folder / kind, "--seed", 7, "-o", tmp_path / "out")
    assert again.exit_code == 2 and "is there already" in again.stderr


def test_a_list_on_stdin_a_style_and_json(folder, tmp_path):
    done = run(
        "draw", "-", "--model", folder / "order", "--n", 1, "--style", "white", "--json", "-o", tmp_path,
        input="red apple\n\nblue boat\n",
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["text"] for one in told] == ["red apple, white", "blue boat, white"]
    assert told[0] == {**told[0], "seed": 0, "number": 1} and Path(told[0]["path"]).is_file()
    assert Image.open(told[1]["path"]).tobytes() == expected(folder, "order", ["blue boat, white"], 1, seed=0)[0]


@pytest.mark.parametrize("judge", ["compares", "matches"])
def test_rerank_puts_the_best_by_another_models_score_first(folder, tmp_path, judge):
    done = run(
        "draw",
        NAMES[0],
        "--model",
        folder / "order",
        "--n",
        5,
        "--keep",
        3,
        "--rerank",
        folder / judge,
        "-o",
        tmp_path,
    )
    scores = [float(line.split("\t")[2]) for line in done.stdout.splitlines()]
    assert done.exit_code == 0 and len(scores) == 3 and scores == sorted(scores, reverse=True)
    files = sorted(tmp_path.glob("*.png"))
    drawn = expected(folder, "order", [NAMES[0]], 5, seed=0)
    assert len(files) == 3 and {Image.open(one).tobytes() for one in files} <= {*drawn}
    from mm.cli.models import load_head
    from mm.searching.rerank import rank_pictures

    model, processor = load_head(folder / judge, ("MMForImageTextRetrieval",))
    pictures = [Image.frombytes("RGB", (8, 8), one) for one in drawn]
    ranked = rank_pictures(model, processor, NAMES[0], pictures)
    assert [Image.open(one).tobytes() for one in files] == [drawn[number] for number, _ in ranked[:3]]
    alone = dict(rank_pictures(model, processor, NAMES[0], pictures[2:3], batch_size=1))
    assert abs(alone[0] - dict(ranked)[2]) <= 1e-4


def test_texts_that_would_share_a_name_are_numbered(folder, tmp_path):
    texts = ["red apple", "Red apple!", "🍎", "🍏", "é" * 130 + " a", "é" * 130 + " b"]
    done = run("draw", *texts, "--model", folder / "order", "--n", 1, "--seed", 12345678901, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    paths = [Path(line.split("\t")[1]) for line in done.stdout.splitlines()]
    assert len({*paths}) == len(texts) and all(one.is_file() for one in paths)
    assert [one.name.split("-")[0] for one in paths[:4]] == ["red_apple", "red_apple_2", "drawn", "drawn_2"]


def test_a_run_goes_on_with_the_texts_that_lack_pictures(folder, tmp_path):
    words = ("draw", *NAMES[:3], "--model", folder / "order", "--n", 2, "-o", tmp_path / "out")
    assert run(*words).exit_code == 0
    held = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert len(held) == 6
    lost = sorted(held)[2:4]
    (tmp_path / "out" / lost[0]).unlink()
    done = run(*words, "--resume", "--sheet", tmp_path / "sheet.png")
    assert done.exit_code == 0 and [Path(line.split("\t")[1]).name for line in done.stdout.splitlines()] == lost
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")} == held
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 3 * 128
    done = run(*words, "--resume", "--temperature", 0.5)
    assert done.exit_code == 2 and "temperature was 1.0 and is 0.5" in done.stderr
    done = run(*words[:-2], "--resume")
    assert done.exit_code == 2 and "--resume goes on with the folder of --output" in done.stderr


def test_only_a_sheet_leaves_no_other_file(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("draw", "red apple", "--model", folder / "order", "--sheet", "all.png")
    assert done.exit_code == 0 and [one.name for one in tmp_path.iterdir()] == ["all.png"] and done.stdout == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["red apple", "--model", "compares"], "needed is a model that"),
        (["red apple", "--model", "order", "--steps", "4"], "draws in order"),
        (["red apple", "--model", "order", "--n", "2", "--keep", "3"], "--keep 3 of --n 2"),
        (["red apple", "--model", "order", "--sheet", "all.txt"], "must end in .png"),
        (["red apple", "--model", "order", "--sheet", "no/all.png"], "there is no folder 'no'"),
        (["red apple", "--model", "order", "--sheet", "kept.jpg"], "--sheet kept.jpg is there already"),
        (
            ["red apple", "--model", "order", "--rerank", "order"],
            "a model that compares (MMForImageTextRetrieval): --rerank",
        ),
        (["red apple", "--model", "order", "-o", "order/config.json"], "is no folder"),
        ([" ", "--model", "order"], "nothing to draw"),
        (["red apple", "--model", "order", "--guidance", "0.5"], "guidance_scale=0.5"),
        (["red apple"], "--model"),
    ],
)
def test_what_cannot_be_drawn_is_told_with_exit_code_2(folder, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(folder)
    (folder / "kept.jpg").write_text("kept")
    done = run("draw", *words)
    assert done.exit_code == 2 and told in done.stderr and not [*folder.glob("*.png")]
    assert (folder / "kept.jpg").read_text() == "kept"


def test_a_model_of_words_says_how_one_learns_to_draw(folder, tmp_path):
    plain = small_processor(image_tokenizer=None)
    small_drawer(small_processor(), drawing={}).save_pretrained(tmp_path / "words")
    plain.save_pretrained(tmp_path / "words")
    done = run("draw", "red apple", "--model", tmp_path / "words", "-o", tmp_path)
    assert done.exit_code == 2 and "docs/drawing.md" in done.stderr
