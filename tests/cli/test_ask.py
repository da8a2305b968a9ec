"""`mm ask`, `mm classify` and `mm match`: what they print is what the model's own methods give."""

import copy
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import BertTokenizer, pipeline
from typer.testing import CliRunner

import mm_console
from mm import MMForSequenceClassification, MMImageProcessorPil, MMProcessor
from mm.cli.caption import caption
from mm.cli.media_lists import files_and_texts

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of what is it red blue cat dog".split()


@pytest.fixture(scope="module")
def folder(retriever, tiny_model, tmp_path_factory):
    """Models that write, answer, compare and classify, and two pictures."""
    folder = tmp_path_factory.mktemp("asked")
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    processor = MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)
    text = {"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3}
    encoder = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    own = {"dtype": torch.float32, "text_config": text}
    models = {
        "writes": tiny_model(**own),
        "answers": tiny_model(**own, text_encoder_config={**encoder, **text, "pad_token_id": 0}),
        "shares, writes": tiny_model(**own, share_text_encoder=True),
        "shares, answers": tiny_model(**own, share_text_encoder=True),
        "compares": retriever(**own),
        "classifies": tiny_model(cls=MMForSequenceClassification, id2label={0: "good", 1: "bad", 2: "odd"}, **own),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    asked = MMProcessor(processor.image_processor, tokenizer, prompt_to="context")
    asked.save_pretrained(folder / "shares, answers")
    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(folder / f"{colour}.png")
    return folder, models, processor


def run(*words, **options):
    return CliRunner().invoke(mm_console.app, [str(word) for word in words], **options)


@pytest.mark.parametrize("name", ["writes", "answers", "shares, writes", "shares, answers"])
def test_questions_are_answered_in_a_call_from_stdin_and_from_a_list(folder, name):
    place, models, processor = folder
    answers = place / "answers.txt"
    answers.write_text("red\n\nblue cat\ndog\n")
    given = ("ask", place / "red.png", "--model", place / name)
    done = run(*given, "what is it", "a", "--max-new-tokens", 5)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.exit_code == 0 and [line[0] for line in lines] == ["what is it", "a"]
    assert run(*given, "--max-new-tokens", 5, input="what is it\na\n").stdout == done.stdout
    for question, answer in lines:
        options = {"model": place / name, "prompt": question, "max_new_tokens": 5}
        (whole,) = caption([place / "red.png"], **options)
        assert whole.caption == (f"{question} {answer}".strip() if "writes" in name else answer)
        ask = pipeline("mm-vqa", model=str(place / name))
        assert ask(image=str(place / "red.png"), question=question, max_new_tokens=5) == [{"answer": answer}]
    done = run(*given, "a", "--answers", answers, "--json", "--top-k", 2)
    ranked = [json.loads(line) for line in done.stdout.splitlines()]
    side = "context_text" if "answers" in name else "text"
    read = processor(images=[place / "red.png"], **{side: ["a"]}, add_eos_token=False, return_tensors="pt")
    ends = processor.tokenizer(
        ["red[SEP]", "blue cat[SEP]", "dog[SEP]"], add_special_tokens=False, padding=True, return_tensors="pt"
    )
    scores = models[name].rank_answers(ends.input_ids, ends.attention_mask, **read).scores[0]
    best = scores.sort(descending=True)
    assert [one["answer"] for one in ranked] == [["red", "blue cat", "dog"][i] for i in best.indices[:2]]
    assert [one["score"] for one in ranked] == pytest.approx(best.values[:2].tolist(), abs=1e-5)


def test_files_are_labelled_by_texts_or_by_a_head(folder, tmp_path):
    place, models, processor = folder
    pictures = [place / "blue.png", place / "red.png"]
    given = ("classify", *pictures, "--model", place / "compares", "--labels", "cat,dog", "--json", "--top-k", 2)
    lines = [json.loads(line) for line in run(*given).stdout.splitlines()]
    read = processor(text=["a photo of cat", "a photo of dog"], images=pictures, return_tensors="pt")
    expected = models["compares"](**read).logits_per_image.softmax(1)
    for line, shares in zip(lines, expected, strict=True):
        found = {one["label"]: one["score"] for one in line["labels"]}
        assert [found["cat"], found["dog"]] == pytest.approx(shares.tolist(), abs=1e-5)
    output = tmp_path / "labels.jsonl"
    head = ("--model", place / "classifies", "--text", "what is it", "--output", output)
    assert run("classify", pictures[0], *head).exit_code == 0
    assert run("classify", *pictures, *head, "--resume").exit_code == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    read = processor(text=["what is it"] * 2, images=pictures, return_tensors="pt")
    best = models["classifies"](**read).logits.softmax(1).max(1)
    names = models["classifies"].config.id2label
    assert [Path(line["path"]) for line in lines] == pictures
    assert [line["labels"][0]["label"] for line in lines] == [names[number] for number in best.indices.tolist()]
    assert [line["labels"][0]["score"] for line in lines] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_texts_are_matched_with_a_picture(folder):
    place, models, processor = folder
    texts = ["a red cat", "dog", "blue"]
    done = run("match", place / "red.png", *texts, "--model", place / "compares", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    read = processor(text=[texts], images=[place / "red.png"], return_tensors="pt")
    chances = dict(zip(texts, models["compares"].match(**read).softmax(1)[:, 1].tolist(), strict=True))
    assert [line["text"] for line in lines] == sorted(texts, key=lambda text: -chances[text])
    assert all(line["match"] == pytest.approx(chances[line["text"]], abs=1e-5) for line in lines)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ask", "red.png", " ", "--model", "writes"], "empty"),
        (["ask", "red.png", "a", "--model", "compares"], "needed is a model that writes"),
        (["ask", "red.png", "a", "--model", "writes", "--device", "abacus"], "accepted: cpu"),
        (["ask", "red.png", "a", "--model", "writes", "--dtype", "int3"], "accepted: float32"),
        (["classify", "red.png", "--model", "compares"], "give --labels"),
        (["classify", "red.png", "--model", "compares", "--labels", "a,a"], "twice"),
        (["classify", "red.png", "--model", "compares", "--labels", "a", "--template", "photo"], "must have one"),
        (["classify", "red.png", "--model", "classifies", "--labels", "a,b"], "labels of its own"),
        (["classify", "red.png", "--model", "writes"], "needed is a model that compares"),
        (["explain", "red.png", "--model", "writes", "-o", "map.doc"], "must end in .png, .svg, .pdf"),
        (["explain", "red.png", "--model", "writes", "-o", "no/map.png"], "there is no folder 'no'"),
        (["explain", "film.mp4", "--model", "writes"], "it is a video, and the model reads pictures"),
        (["export", "writes", "--model", "writes", "--to", "hub"], "is not empty; give a new folder"),
        (["convert", "writes", "compares"], "is not empty; give a new folder"),
        (["tune", "red.png"], "is there already"),
    ],
)
def test_bad_input_is_a_line_of_words(folder, words, told):
    place, *_ = folder
    names = {"red.png", "film.mp4", "writes", "compares", "classifies"}
    (place / "film.mp4").write_bytes(b"no film")
    done = run(*(place / word if word in names else word for word in words))
    assert done.exit_code == 2 and told in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["writes", "compares", "classifies"])
def test_a_model_leaves_mm_with_its_code_as_what_it_is(folder, name, tmp_path):
    """Of its own class, and in the precision of its weights."""
    _, models, processor = folder
    copy.deepcopy(models[name]).bfloat16().save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    done = run("export", tmp_path / "out", "--model", tmp_path / "half", "--to", "hub")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out/config.json").read_text())
    assert told["architectures"] == [type(models[name]).__name__] and told["dtype"] == "bfloat16"
    before, after = (load_file(tmp_path / part / "model.safetensors") for part in ("half", "out"))
    assert before.keys() == after.keys() and all(torch.equal(after[key], before[key]) for key in before)
    if name != "writes":
        done = run("export", tmp_path / "graphs", "--model", tmp_path / "half")
        assert done.exit_code == 2 and "needed is a model that writes" in done.stderr


def test_a_caption_is_explained_once_in_a_drawing(folder, tmp_path):
    words = ("explain", folder[0] / "red.png", "--model", folder[0] / "writes", "--text", "a cat")
    done = run(*words, "-o", tmp_path / "map.png")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.exit_code == 0, done.output
    assert [line[0] for line in lines] == ["word", "a", "cat"] and all(len(line) == 4 for line in lines)
    told = json.loads(run(*words, "--json").stdout)
    assert told["words"] == ["a", "cat"] and len(told["items"][0]["weights"]) == 2
    drawn = (tmp_path / "map.png").read_bytes()
    again = run(*words, "-o", tmp_path / "map.png")
    assert again.exit_code == 2 and "map.png is there already" in again.stderr
    assert (tmp_path / "map.png").read_bytes() == drawn


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Pictures of two forms in a folder and one below, one of them broken."""
    place = tmp_path_factory.mktemp("several") / "pictures"
    (place / "below").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "c.png", "below/e.webp")):
        Image.new("RGB", (16, 16 + 4 * (number % 2)), (60 * number, 99, 10)).save(place / name)
    (place / "d.png").write_bytes(b"junk")
    return place


@pytest.mark.parametrize("name", ["writes", "answers"])
def test_files_are_asked_about_together_as_each_alone(folder, several, tmp_path, name):
    """From a folder, a pattern and stdin, in batches; a broken one is told, and the others are answered."""
    given, questions = ("--model", folder[0] / name, "--max-new-tokens", 4), ("what is it", "a cat")
    names = ["a.png", "b.jpg", "c.png"]
    alone = [
        f"{one}\t{line}" for one in names for line in run("ask", several / one, *questions, *given).stdout.splitlines()
    ]
    assert len(alone) == 6
    for words, typed in (
        ([several], None),
        ([f"{several}/*.*"], None),
        (["-"], "".join(f"{several / one}\n" for one in [*names, "d.png"])),
        ([several / one for one in [*names, "d.png"]], None),
    ):
        for size in (1, 2, 8):
            done = run("ask", *words, *questions, *given, "--batch-size", size, input=typed)
            assert done.exit_code == 2 and "d.png" in done.stderr and done.stdout.splitlines() == alone
    assert run("ask", several, *given, input="what is it\na cat\n").stdout.splitlines() == alone
    output = tmp_path / "answers.jsonl"
    done = run("ask", several, *questions, *given, "-r", "--output", output)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == [*names, "d.png", "e.webp"]
    told = [(Path(line["path"]).name, *one.values()) for line in lines[:3] for one in line["answers"]]
    assert ["\t".join(one) for one in told] == alone and "error" in lines[3]
    other = run("ask", several, "a cat", *given, "-r", "--output", output, "--resume")
    assert other.exit_code == 2 and "questions was" in other.stderr
    before = output.read_bytes()
    run("ask", several, *questions, *given, "-r", "--output", output, "--resume", "--batch-size", 1)
    assert output.read_bytes() == before


def test_texts_are_matched_with_files_together_as_with_each_alone(folder, several, tmp_path):
    words, names = ("a red cat", "dog", "--model", folder[0] / "compares"), ["a.png", "b.jpg", "c.png"]
    alone = [f"{one}\t{line}" for one in names for line in run("match", several / one, *words).stdout.splitlines()]
    done = run("match", several, *words)
    assert done.exit_code == 2 and "d.png" in done.stderr and done.stdout.splitlines() == alone and len(alone) == 6
    output = tmp_path / "matches.jsonl"
    run("match", f"{several}/*.png", *words, "--output", output)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["a.png", "c.png", "d.png"]
    assert {one["text"] for one in lines[0]["texts"]} == {"a red cat", "dog"}
    done = run("match", several, "--model", folder[0] / "compares")
    assert done.exit_code == 2 and "no texts to compare with" in done.stderr


def test_pictures_are_explained_each_with_a_drawing_and_a_run_goes_on(folder, several, tmp_path):
    words, output = ("explain", several, "--model", folder[0] / "writes", "--text", "a cat"), tmp_path / "maps"
    done = run(*words, "-o", output)
    lines = [line.split("\t")[:2] for line in done.stdout.splitlines()]
    assert done.exit_code == 2 and "d.png" in done.stderr
    assert lines == [[name, word] for name in ("a.png", "b.jpg", "c.png") for word in ("word", "a", "cat")]
    drawn = {path.name: path.read_bytes() for path in output.glob("[!.]*")}
    assert sorted(drawn) == ["a.png", "b.png", "c.png"]
    (output / "b.png").unlink()
    refused = run(*words, "-o", output)
    assert refused.exit_code == 2 and "holds a.png already; --resume" in refused.stderr
    other = run(*words[:-1], "a dog", "-o", output, "--resume")
    assert other.exit_code == 2 and "text was 'a cat' and is 'a dog'" in other.stderr
    done = run(*words, "-o", output, "--resume")
    assert done.stdout.count("b.jpg") == 3 == len(done.stdout.splitlines())
    assert sorted(path.name for path in output.glob("[!.]*")) == sorted(drawn)
    for path, told in ((tmp_path / "map.png", "is one file; give a folder"), (None, "--resume goes on with")):
        refused = run(*words, *(["-o", path] if path else ["--resume"]))
        assert refused.exit_code == 2 and told in refused.stderr
    (told, *_) = run(*words, "--json").stdout.splitlines()
    assert json.loads(told)["path"].endswith("a.png") and json.loads(told)["words"] == ["a", "cat"]


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("writes", []),
        ("writes", ["--text", "a cat", "--method", "grad"]),
        ("writes", ["--num-beams", "2", "--method", "rollout"]),
        ("writes", ["--text", "a cat", "--method", "occlusion"]),
        ("answers", ["--prompt", "what is it"]),
        ("shares, writes", ["--prompt", "a photo"]),
        ("shares, answers", ["--prompt", "what is it", "--text", "a cat"]),
    ],
    ids=" ".join,
)
def test_pictures_are_explained_together_as_each_alone(folder, several, name, given):
    words = ("--model", folder[0] / name, "--json", *given)
    paths = [several / one for one in ("a.png", "b.jpg", "c.png")]
    alone = [json.loads(run("explain", path, *words).stdout) for path in paths]
    assert len({str(one["items"][0]["weights"]) for one in alone}) == 3
    for more in (["--batch-size", 2], ["--batch-size", 8, "--workers", 2]):
        done = run("explain", several, *words, *more)
        assert done.exit_code == 2 and "d.png" in done.stderr
        for one, told in zip(alone, map(json.loads, done.stdout.splitlines()), strict=True):
            assert told["words"] == one["words"] and told["path"] == one["path"]
            assert [item["place"] for item in told["items"]] == [item["place"] for item in one["items"]]
            ours, theirs = (torch.tensor(each["items"][0]["weights"]) for each in (told, one))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_files_stand_first_and_texts_after_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").mkdir()
    Path("a.jpg").touch()
    for words, files in (
        (["cat", "cat", "dog"], 1),  # the first is a file, whatever it is called
        (["a.jpg", "b.jpg", "what is it?"], 2),  # is told as missing, not asked
        (["-", "what?"], 1),
        (["a.jpg", "./cat", "./*.jpg", "cat/dog"], 3),
        (["*", "*?"], 1),
    ):
        assert files_and_texts(words, "texts") == (words[:files], words[files:])
    with pytest.raises(ValueError, match=r"'b.jpg' is a file after the text 'a cat'"):
        files_and_texts(["a.jpg", "a cat", "b.jpg"], "questions")


def test_a_broken_file_is_told_by_its_name(folder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"junk")
    done = run("ask", tmp_path / "bad.png", "what is it", "--model", folder[0] / "writes")
    assert done.exit_code == 2 and done.stderr.startswith("mm: cannot decode")
