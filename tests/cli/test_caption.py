"""`mm caption`, with a tiny random model in a folder; last, with the model in the package."""

import io
import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging
from typer.testing import CliRunner

import mm_console
from mm import MMConfig, MMForConditionalGeneration, MMImageProcessorPil, MMProcessor
from mm.cli import models as models_of_commands
from mm.cli.caption import caption, list_pictures, load_model, print_captions
from mm.cli.printing import json_line, printable
from mm.evaluation.calibration import Calibration
from mm.processing.images.load import MediaDecodeError

ROOT = Path(__file__).resolve().parents[2]
MM = str(Path(sysconfig.get_path("scripts")) / "mm")
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "green", "blue", "dog", "cat", "house", "tree"]


def tiny_processor() -> MMProcessor:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    return MMProcessor(MMImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)


def tiny_model(**fields: Any) -> MMForConditionalGeneration:
    stack: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    stack |= {"num_attention_heads": 2, "initializer_range": 0.5}  # a wide one, so that the pictures' captions differ
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = MMConfig(
        vision_config={"image_size": 32, "patch_size": 16, **stack},
        text_config={"vocab_size": len(WORDS), "max_position_embeddings": 32, **ids, **stack},
        **fields,
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
    assert said.err.startswith(f"mm: 1 of 3 files cannot be read:\n  cannot decode '{broken}'")
    assert not print_captions([broken], model=model_folder)
    assert capsys.readouterr().err.startswith("mm: cannot decode")


@pytest.mark.parametrize("shown", [True, False])
def test_transformers_bars_are_left_as_they_were(broken, model_folder, shown):
    was_shown = logging.is_progress_bar_enabled()
    try:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
        print_captions([broken], model=model_folder)
        assert logging.is_progress_bar_enabled() == shown
    finally:
        (logging.enable_progress_bar if was_shown else logging.disable_progress_bar)()


def test_only_broken_pictures_give_no_line_and_no_other_error(broken, model_folder, capsys):
    assert not print_captions([broken], model=model_folder)
    assert capsys.readouterr().out == ""


def test_captions_that_are_likely_wrong_are_said_to_be_unsure(pictures, model_folder, tmp_path, capsys):
    """By the model's own limit, by another, and by none; not after a prompt, which nothing was fitted on."""
    known = list(caption([pictures], model_folder, with_scores=True))
    assert not any(found.is_unsure or found.chance is not None for found in known)
    scores = sorted(found.score for found in known)
    middle = (scores[0] + scores[1]) / 2
    model = MMForConditionalGeneration.from_pretrained(model_folder)
    Calibration(temperature=0.01, midpoint=middle).keep(model)
    model.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)

    told = list(caption([pictures], tmp_path))
    assert [found.is_unsure for found in told] == [found.score < middle for found in told]
    assert [found.caption for found in told] == [found.caption for found in known]
    assert not any(found.is_unsure for found in caption([pictures], tmp_path, unsure_below=0))
    assert all(found.is_unsure for found in caption([pictures], tmp_path, unsure_below=1) if found.chance < 1)
    assert all(found.chance is None for found in caption([pictures], tmp_path, prompt="a"))

    assert print_captions([pictures], model=tmp_path)
    lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    for found in told:
        assert lines[found.path.name] == (f"unsure ({found.caption})" if found.is_unsure else found.caption)
    assert print_captions([pictures], model=tmp_path, output=tmp_path / "out.jsonl")
    rows = {
        row["path"]: row for row in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()) if "path" in row
    }
    for found in told:
        row = rows[str(found.path)]
        assert (row["caption"], row["unsure"]) == (found.caption, found.is_unsure)
        assert row["chance"] == pytest.approx(found.chance, abs=1e-4)


@pytest.mark.parametrize("settings", [{}, {"prompt": "a"}])
def test_a_limit_without_a_calibration_is_an_error(pictures, model_folder, settings):
    with pytest.raises(ValueError, match="--unsure-below 0.3: .*no calibration .*mm.metrics.calibrate"):
        list(caption([pictures], model_folder, unsure_below=0.3, **settings))


def test_a_json_line_holds_path_caption_and_score(pictures, model_folder, capsys):
    assert print_captions([pictures], json_lines=True, model=model_folder, max_new_tokens=3)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == [str(path) for path in list_pictures([pictures])]
    assert all(set(line) == {"path", "caption", "score"} and line["score"] < 0 for line in lines)


HOSTILE = "a\x1b[31mRED\x1b]0;title\x07\tTAB\nLINE\u2028\u202etxt\x9b2J\x7f.png"
OBEYED = set("\x1b\x07\x9b\x7f\u2028\u202e\r")


@pytest.fixture
def hostile(tmp_path, pictures) -> Path:
    """A folder of pictures whose names a terminal would obey, one of them broken, one not even Unicode."""
    (tmp_path / "names").mkdir()
    for name in (HOSTILE, os.fsdecode(b"b\xff.png"), "c \u732b\u00e9 \U0001f469\u200d\U0001f680.png"):
        shutil.copy(pictures / "a.png", tmp_path / "names" / name)
    (tmp_path / "names" / "d\x1b]0;title\x07\n.png").write_bytes(b"no")
    return tmp_path / "names"


def test_names_are_printed_and_never_obeyed(hostile, model_folder, capsys):
    assert not print_captions([hostile], model=model_folder, max_new_tokens=2)
    said = capsys.readouterr()
    assert not OBEYED & set(said.out + said.err)
    lines = said.out.split("\n")
    assert [line.count("\t") for line in lines] == [1, 1, 1, 0]  # the last line is empty
    names = [line.split("\t")[0] for line in lines[:3]]
    assert names[0] == r"a\x1b[31mRED\x1b]0;title\x07\tTAB\nLINE\u2028\u202etxt\x9b2J\x7f.png"
    assert names[1:] == [r"b\udcff.png", "c \u732b\u00e9 \U0001f469\u200d\U0001f680.png"]
    assert said.err.count("\n") == 2 and r"\x1b]0;title\x07\n" in said.err


def test_json_lines_read_back_equal_and_hold_nothing_that_is_obeyed(hostile, model_folder, capsys):
    print_captions([hostile], json_lines=True, model=model_folder, max_new_tokens=2)
    out = capsys.readouterr().out
    assert not OBEYED & set(out) and len(out.splitlines()) == 3  # also where a reader cuts at U+2028
    paths = [Path(json.loads(line)["path"]) for line in out.splitlines()]
    assert paths == list_pictures([hostile])[:3]


def test_captions_of_a_hostile_vocabulary_are_printed_and_never_obeyed(pictures, tmp_path, capsys):
    processor = tiny_processor()
    backend = processor.tokenizer.backend_tokenizer
    words = {f"{word}\x1b[2J\u202e\x07" if number > 3 else word: number for number, word in enumerate(WORDS)}
    backend.model = models.WordLevel(words, unk_token="[UNK]")
    tiny_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    print_captions([pictures], model=tmp_path, max_new_tokens=3)
    out = capsys.readouterr().out
    assert r"\x1b[2J\u202e\x07" in out and not OBEYED & set(out)
    print_captions([pictures], json_lines=True, model=tmp_path, max_new_tokens=3)
    out = capsys.readouterr().out
    assert not OBEYED & set(out) and "\x1b[2J" in json.loads(out.splitlines()[0])["caption"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_stream_of_few_letters_gets_escapes(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    name = "\u732b\u00e9\U0001f680"
    for line in (printable(name, stream), json_line({"path": name}, stream)):
        stream.write(line)
    assert json.loads(json_line({"path": name}, stream)) == {"path": name}


@pytest.mark.parametrize("command", [["export", "{}"], ["convert", "{}"], ["convert", "{}", "OUT"]])
def test_other_commands_print_names_in_one_line(command, hostile):
    """Errors go to stderr, whoever raised them."""
    folder = str(hostile)
    done = CliRunner().invoke(mm_console.app, [part.format(folder + "/" + HOSTILE) for part in command])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and not OBEYED & set(done.output)


# ---- what --model may be --------------------------------------------------------------------------------------------


def test_a_folder_without_a_processor_is_no_captioner(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no processor.*MMProcessor"):
        load_model(tmp_path)


@pytest.mark.parametrize("part", ["tokenizer", "image_processor"])
def test_a_processor_of_one_part_is_no_captioner_s(model_folder, part, monkeypatch):
    processor = tiny_processor()
    setattr(processor, part, None)
    monkeypatch.setattr(models_of_commands.AutoProcessor, "from_pretrained", lambda source: processor)
    with pytest.raises(ValueError, match=f"has no {part} .*MMProcessor"):
        load_model(model_folder)


def test_a_file_is_no_model(model_folder):
    with pytest.raises(ValueError, match="that is a file; give the folder"):
        load_model(model_folder / "config.json")


def test_an_adapter_writes_what_its_merged_model_writes(pictures, model_folder, tmp_path):
    """With the processor beside the adapter, as Trainer saves it, or beside the model alone."""
    base = MMForConditionalGeneration.from_pretrained(model_folder)
    torch.manual_seed(3)
    adapted: Any = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "lora")
    options = {"max_new_tokens": 5, "with_scores": True}
    found = list(caption([pictures], tmp_path / "lora", **options))
    tiny_processor().save_pretrained(tmp_path / "lora")
    assert list(caption([pictures], str(tmp_path / "lora"), **options)) == found
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    tiny_processor().save_pretrained(tmp_path / "merged")
    merged = list(caption([pictures], tmp_path / "merged", **options))
    assert texts(found) == texts(merged) != texts(caption([pictures], model_folder, max_new_tokens=5))
    assert [one.score for one in found] == pytest.approx([one.score for one in merged], abs=1e-4)


def test_a_model_with_a_text_encoder_is_asked(pictures, tmp_path):
    encoder = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = tiny_model(text_encoder_config={**encoder, "vocab_size": len(WORDS), "bos_token_id": 1, "eos_token_id": 2})
    model.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="question or prompt .*--prompt"):
        next(caption([pictures], tmp_path))
    found = texts(caption([pictures], tmp_path, prompt="a red dog", max_new_tokens=4))
    inputs = tiny_processor()(images=list_pictures([pictures]), context_text=["a red dog"] * 5, return_tensors="pt")
    ids = model.eval().generate(**inputs, max_new_tokens=4)
    assert found == tiny_processor().batch_decode(ids, skip_special_tokens=True)


def test_a_shared_text_encoder_need_not_be_asked(pictures, tmp_path):
    """A model of pre-training describes pictures as its "lm" loss taught it."""
    model = tiny_model(share_text_encoder=True)
    model.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    inputs = tiny_processor()(images=list_pictures([pictures]), return_tensors="pt")
    written = tiny_processor().batch_decode(
        model.eval().generate(**inputs, max_new_tokens=4), skip_special_tokens=True
    )
    assert texts(caption([pictures], tmp_path, max_new_tokens=4)) == written


def run_mm(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    command = [MM, "caption", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.slow
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
    found = texts(caption(samples))
    assert all(found) and len(found) == len(samples) >= 8 and len(set(found)) > len(found) // 2
