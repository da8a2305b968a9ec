"""`mm caption`, with a tiny random model in a folder; last, with the model in the package."""

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mm import MMConfig, MMForConditionalGeneration, MMImageProcessorPil, MMProcessor
from mm.cli.caption import PACKAGED_MODEL, caption, list_pictures, load_model, print_captions
from mm.processing.media import MediaDecodeError

ROOT = Path(__file__).resolve().parents[1]
MM = str(Path(sysconfig.get_path("scripts")) / "mm")
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "green", "blue", "dog", "cat", "house", "tree"]


def tiny_processor() -> MMProcessor:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    return MMProcessor(MMImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)


def tiny_model() -> MMForConditionalGeneration:
    stack: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    stack |= {"num_attention_heads": 2, "initializer_range": 0.5}  # a wide one, so that the pictures' captions differ
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = MMConfig(
        vision_config={"image_size": 32, "patch_size": 16, **stack},
        text_config={"vocab_size": len(WORDS), "max_position_embeddings": 32, **ids, **stack},
    )
    torch.manual_seed(0)
    return MMForConditionalGeneration(config)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of five pictures, named out of order of their making, and a text."""
    folder = tmp_path_factory.mktemp("pictures")
    colours = {"c.png": "red", "a.png": "green", "e.JPG": "blue", "b.webp": "yellow", "d.jpeg": "black"}
    for name, colour in colours.items():
        Image.new("RGB", (30, 40), colour).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def broken(tmp_path) -> Path:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return path


def texts(captions) -> list[str]:
    return [found.caption for found in captions]


def test_a_folder_stands_for_its_pictures_sorted_by_name(pictures):
    names = [path.name for path in list_pictures([pictures])]
    assert names == ["a.png", "b.webp", "c.png", "d.jpeg", "e.JPG"]


def test_files_and_folders_keep_the_order_given(pictures):
    names = [path.name for path in list_pictures([pictures / "c.png", pictures])]
    assert names == ["c.png", "a.png", "b.webp", "c.png", "d.jpeg", "e.JPG"]


def test_a_folder_without_pictures_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=f"no pictures in the folder {tmp_path}"):
        list_pictures([tmp_path])


def test_a_missing_file_is_an_error_that_names_it(pictures):
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        list_pictures([pictures, "nowhere.png"])


def test_no_paths_is_an_error():
    with pytest.raises(ValueError, match="no pictures given"):
        list_pictures([])


def test_a_folder_without_a_model_is_an_error_that_names_it(pictures, tmp_path):
    with pytest.raises(ValueError, match="no saved model in .*tmp"):
        next(caption([pictures], tmp_path))


def test_a_batch_size_below_one_is_an_error(pictures, model_folder):
    with pytest.raises(ValueError, match="batch_size=0"):
        next(caption([pictures], model_folder, batch_size=0))


def test_every_picture_gets_a_caption_in_order(pictures, model_folder):
    found = list(caption([pictures], model_folder, max_new_tokens=5))
    assert [one.path for one in found] == list_pictures([pictures])
    assert all(set(one.caption.split()) <= set(WORDS) for one in found)
    assert len(set(texts(found))) > 1, "a model that looks at its pictures says different things"
    assert [one.score for one in found] == [None] * 5


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_batch_size_changes_neither_captions_nor_scores(pictures, model_folder, num_beams):
    options = {"num_beams": num_beams, "max_new_tokens": 6, "with_scores": True}
    alone = list(caption([pictures], model_folder, batch_size=1, **options))
    together = list(caption([pictures], model_folder, batch_size=4, **options))
    assert texts(alone) == texts(together)
    assert [one.score for one in alone] == pytest.approx([one.score for one in together], abs=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_score_is_the_mean_log_probability_of_the_tokens(pictures, model_folder, num_beams):
    model, processor = load_model(model_folder)
    path = pictures / "a.png"
    (found,) = caption([path], model_folder, num_beams=num_beams, max_new_tokens=6, with_scores=True)
    inputs = processor(images=path, return_tensors="pt")
    ids = model.generate(**inputs, num_beams=num_beams, max_new_tokens=6)
    with torch.no_grad():
        logits = model(input_ids=ids, **inputs).logits
    per_token = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])
    assert found.score == pytest.approx(per_token.mean().item(), abs=1e-5)


def test_max_new_tokens_bounds_the_caption(pictures, model_folder):
    found = texts(caption([pictures], model_folder, max_new_tokens=2))
    assert all(len(one.split()) <= 2 for one in found)


def test_the_prompt_starts_every_caption(pictures, model_folder):
    found = texts(caption([pictures], model_folder, prompt="a red", max_new_tokens=3))
    assert len(found) == 5
    assert all(one.startswith("a red") for one in found)


def test_a_broken_picture_raises_and_is_named(pictures, broken, model_folder):
    with pytest.raises(MediaDecodeError, match="broken.png"):
        list(caption([pictures, broken], model_folder, max_new_tokens=2))


def test_the_command_leaves_out_a_broken_picture_and_says_so(pictures, broken, model_folder, capsys):
    paths = [pictures / "a.png", broken, pictures / "b.webp"]
    assert not print_captions(paths, model=model_folder, max_new_tokens=3)
    said = capsys.readouterr()
    assert [line.split("\t")[0] for line in said.out.splitlines()] == ["a.png", "b.webp"]
    assert said.err.startswith("mm: cannot decode") and "broken.png" in said.err


def test_only_broken_pictures_give_no_line_and_no_other_error(broken, model_folder, capsys):
    assert not print_captions([broken], model=model_folder)
    assert capsys.readouterr().out == ""


def test_a_json_line_holds_path_caption_and_score(pictures, model_folder, capsys):
    assert print_captions([pictures], json_lines=True, model=model_folder, max_new_tokens=3)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == [str(path) for path in list_pictures([pictures])]
    assert all(set(line) == {"path", "caption", "score"} and line["score"] < 0 for line in lines)


def run_mm(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    command = [MM, "caption", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


def test_the_command_prints_captions_and_nothing_else(pictures, model_folder, tmp_path):
    done = run_mm(pictures, "--model", model_folder, "--num-beams", "2", "--max-new-tokens", "3", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    expected = caption([pictures], model_folder, num_beams=2, max_new_tokens=3)
    assert done.stdout == "".join(f"{found.path.name}\t{found.caption}\n" for found in expected)


@pytest.mark.slow
def test_the_command_ends_with_2_where_a_file_is_no_picture(pictures, model_folder, tmp_path):
    done = run_mm(pictures / "notes.txt", pictures / "a.png", "--model", model_folder, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.startswith("a.png\t") and done.stdout.count("\n") == 1
    assert "notes.txt" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_ends_with_2_where_the_model_is_missing(pictures, tmp_path):
    done = run_mm(pictures, "--model", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_the_packaged_model_captions_the_sample_pictures():
    samples = list_pictures([ROOT / "examples" / "pictures"])
    assert (PACKAGED_MODEL / "config.json").is_file()
    found = texts(caption(samples))
    assert len(found) == len(samples) >= 8
    assert all(found) and len(set(found)) > len(found) // 2
