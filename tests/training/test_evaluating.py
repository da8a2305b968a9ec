"""mm.evaluate: the numbers whatever the batch, a kill or the processes; files; what cannot be read; comparisons."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import mm
import mm_console
from mm.cli.models import load_head
from mm.training import asking, evaluating
from mm.training.journal import Journal
from mm.training.predictions import Question, Sample
from speakers import saved_moonshine

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "checkpoints" / "mm-tiny"
FEW = ("bicycle", "camera", "elephant", "red_apple", "rocket")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A COCO file of five pictures with two captions each, and a sixth that is no picture."""
    folder = tmp_path_factory.mktemp("coco")
    images, annotations = [], []
    for number, name in enumerate(FEW):
        (folder / f"{name}.png").write_bytes((ROOT / "examples" / "pictures" / f"{name}.png").read_bytes())
        images.append({"id": number, "file_name": f"{name}.png"})
        for text in (name.replace("_", " "), f"a drawing of one {name}"):
            annotations.append({"id": len(annotations), "image_id": number, "caption": text})
    (folder / "broken.png").write_bytes(b"no picture")
    images.append({"id": 99, "file_name": "broken.png"})
    annotations.append({"id": 999, "image_id": 99, "caption": "broken"})
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder / "captions.json"


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> mm.Evaluation:
    return mm.evaluate(str(MODEL), data, output=tmp_path_factory.mktemp("whole"), progress=False, num_beams=1)


def test_metrics_have_intervals_and_bad_files_are_listed(whole):
    assert whole.task == "caption" and whole.metrics["samples"] == whole.metrics["media"] == 5
    for name in ("exact_match", "bleu4", "cider_d", "rouge_l"):
        assert whole.metrics[f"{name}_low"] <= whole.metrics[name] <= whole.metrics[f"{name}_high"]
    assert whole.metrics["exact_match"] >= 0.6  # it knows these drawings
    ((name, reason),) = whole.skipped
    assert reason.startswith("cannot decode") and "broken.png" in reason and whole.metrics["skipped"] == 1
    assert f"left out: {name}: cannot decode" in str(whole) and Path(name).name == "broken.png"


def test_processes_that_read_ahead_change_nothing(data, whole):
    found = mm.evaluate(str(MODEL), data, workers=2, batch_size=2, progress=False, num_beams=1)
    assert found.metrics == pytest.approx(whole.metrics) and found.skipped == whole.skipped
    assert [question.prediction for question in found.questions] == [one.prediction for one in whole.questions]


def test_a_model_of_several_heads_is_evaluated_as_one_and_the_others_are_told(data):
    model = str(ROOT / "checkpoints" / "mm-tiny")
    found = mm.evaluate(model, data, progress=False, num_beams=1, max_new_tokens=4)
    assert found.task == "caption" and found.notes[-1].startswith("the model was trained for vqa and retrieval, too: ")
    found = mm.evaluate(model, data, task="retrieval", progress=False)
    assert found.task == "retrieval" and not found.notes
    finder, processor = load_head(model, ("MMForImageTextRetrieval",))
    pictures = [data.parent / f"{name}.png" for name in FEW]
    likest = finder.similarity(pictures, [{"text": name.replace("_", " ")} for name in FEW], processor=processor)
    assert found.metrics["samples"] == 5 and likest.argmax(1).tolist() == [*range(5)]
    told = {question.file: question for question in found.questions}
    for name, row in zip(FEW, finder.encode(pictures, processor=processor), strict=True):
        texts = told[f"{name}.png"].references
        scores = finder.encode([{"text": text} for text in texts], processor=processor) @ row
        assert told[f"{name}.png"].prediction in texts and scores.max() > 0
    whole, processor = mm.MMForPreTraining.from_pretrained(model).eval(), mm.MMProcessor.from_pretrained(model)
    held = mm.evaluate(whole, data, processor=processor, progress=False)
    assert held.task == "retrieval"


def test_the_command_ends_with_2_where_media_cannot_be_read(whole, monkeypatch):
    monkeypatch.setattr(evaluating, "evaluate", lambda *args, **options: whole)
    words = ["evaluate", "model", "data", "--json"]
    done = CliRunner().invoke(mm_console.app, words)
    assert done.exit_code == 2 and json.loads(done.stdout) == whole.metrics
    monkeypatch.setattr(evaluating, "evaluate", lambda *args, **options: replace(whole, skipped=[]))
    assert CliRunner().invoke(mm_console.app, words).exit_code == 0


def test_files_say_what_was_found(whole):
    folder = whole.files[0].parent
    held = json.loads((folder / "evaluation.json").read_text())
    assert held["metrics"] == whole.metrics and held["task"] == "caption" and held["versions"]["torch"]
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert {line["prediction"] for line in lines} == {question.prediction for question in whole.questions}
    page = (folder / "evaluation.html").read_text()
    assert {line["file"] for line in lines} == {f"{name}.png" for name in FEW} and lines[0]["id"] not in page
    assert (
        "broken.png" in page and page.count("data:image/png;base64,") >= 5 and "http" not in page.split("</style>")[1]
    )
    assert not list(folder.glob("answers.*"))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_changes_nothing(data, whole, batch_size):
    found = mm.evaluate(str(MODEL), data, batch_size=batch_size, progress=False, num_beams=1)
    assert found.metrics == whole.metrics
    assert [one.prediction for one in found.questions] == [one.prediction for one in whole.questions]


def test_the_device_and_the_type_of_the_weights_are_chosen_by_name(data, whole):
    found = mm.evaluate(str(MODEL), data, device="cpu", dtype="bfloat16", progress=False, num_beams=1)
    assert found.settings["dtype"] == "bfloat16" and found.metrics["exact_match"] >= 0.6
    for options, told in (({"device": "abacus"}, "accepted: cpu"), ({"dtype": "int3"}, "accepted: float32")):
        with pytest.raises(ValueError, match=told):
            mm.evaluate(str(MODEL), data, progress=False, **options)


def test_a_killed_evaluation_goes_on_without_answering_twice(data, whole, tmp_path, monkeypatch):
    generate, asked = mm.MMForConditionalGeneration.generate, []

    def stop_at_the_third(self, *args, **batch):
        asked.append(len(batch["pixel_values"]))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return generate(self, *args, **batch)

    monkeypatch.setattr(mm.MMForConditionalGeneration, "generate", stop_at_the_third)
    options = {"output": tmp_path, "batch_size": 1, "progress": False, "num_beams": 1}
    with pytest.raises(KeyboardInterrupt):
        mm.evaluate(str(MODEL), data, **options)
    path = tmp_path / "answers.0.jsonl"
    with path.open("a") as file:
        file.write('{"answers": [[4, [{"id":')  # as a kill leaves it
    found = mm.evaluate(str(MODEL), data, **options)
    assert found.metrics == whole.metrics and found.skipped == whole.skipped
    assert sum(asked) - 1 == 5 and not path.exists()  # the third was asked again


def test_other_settings_do_not_go_on(data, tmp_path):
    path = tmp_path / "answers.0.jsonl"
    header = {"task": "caption", "num_beams": 2}
    journal = Journal(path, header)
    journal.add([(3, [Question("a", "b", 3, [0], prediction="a cat")])])
    assert [number for number, _ in Journal(path, header).answers()] == [3]
    assert Journal(path, {**header, "num_beams": 3}).answers() == []


def test_a_broken_journal_is_named(tmp_path):
    path = tmp_path / "answers.0.jsonl"
    path.write_text('{"task": "caption"}\nno JSON\n')
    with pytest.raises(ValueError, match=r"answers\.0\.jsonl.*fresh"):
        Journal(path, {"task": "caption"})


def test_other_data_or_weights_under_the_same_name_do_not_go_on():
    one = [{"id": "a", "text": "what?"}]
    assert asking._digest(one) == asking._digest([dict(one[0])])
    assert asking._digest(one) != asking._digest([{"id": "b", "text": "what?"}])
    model = mm.MMForConditionalGeneration.from_pretrained(MODEL)
    before = asking._mark(model, model)
    assert before == asking._mark(model, model)
    next(model.parameters()).data.add_(1)
    assert before != asking._mark(model, model)


def test_two_evaluations_are_compared_on_the_same_questions(data, whole, tmp_path):
    found = mm.evaluate(str(MODEL), data, against=whole.files[0].parent, progress=False, num_beams=1)
    assert found.comparison is not None and found.comparison.difference == 0
    assert found.comparison.verdict == "undecided" and "undecided" in str(found)
    (tmp_path / "predictions.jsonl").write_text('{"id": "x", "prediction": "y", "score": 1}\n')
    with pytest.raises(ValueError, match="other questions"):
        mm.evaluate(str(MODEL), data, against=tmp_path, progress=False, num_beams=1)


def test_the_card_gets_the_metrics_once(data, whole, tmp_path):
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: apache-2.0\n---\n# A model\n\nWords of its owner.\n")
    for _ in range(2):
        evaluating._update_card(tmp_path, whole)
    held = mm.training.evaluating.Path(card).read_text()
    assert (
        held.count("name: exact_match") + held.count("type: exact_match") in (1, 2) and "Words of its owner." in held
    )
    assert "license: apache-2.0" in held


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"task": "captions"}, "did you mean 'caption'"),
        ({"task": "classify"}, "holds no weights"),
        ({"against": "nowhere"}, "predictions.jsonl"),
        ({"update_card": True}, "README.md"),
    ],
)
def test_wrong_input_is_refused_in_words(data, given, words, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for file in MODEL.iterdir():
        if file.name != "README.md":
            (model / file.name).symlink_to(file)
    with pytest.raises((ValueError, TypeError), match=words):
        mm.evaluate(str(model), data, progress=False, num_beams=1, **given)


@pytest.mark.slow
@pytest.mark.linux
def test_three_processes_give_the_numbers_of_one(data, whole, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "-m", "mm_console", "evaluate"]
    command += [str(MODEL), str(data), "-o", str(tmp_path), "--num-beams", "1", "--batch-size", "2", "--json"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == whole.metrics
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 5
    assert not list(tmp_path.glob("answers.*"))


OTHER_TASKS = """
import json, os, sys
import torch
import mm

def models():
    processor = mm.MMProcessor.from_pretrained("checkpoints/mm-tiny")
    parts = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**parts, "vocab_size": len(processor.tokenizer), "bos_token_id": processor.tokenizer.bos_token_id}
    vision = {**parts, "image_size": 128, "patch_size": 64}
    files = [f"examples/pictures/{name}.png" for name in sys.argv[2:]]
    for task, cls, more, columns in (
        ("vqa", mm.MMForConditionalGeneration, {}, lambda n: {"text": "what?", "suffix": "a", "answers": ["a"] * 4}),
        ("retrieval", mm.MMForImageTextRetrieval, {"projection_dim": 8}, lambda n: {"suffix": ["a b", f"c {n}"]}),
        ("classify", mm.MMForSequenceClassification, {"num_labels": 2}, lambda n: {"label": n % 2}),
    ):
        torch.manual_seed(0)
        own = {**text, "is_causal": task == "vqa"}
        model = cls(mm.MMConfig(vision_config=vision, text_config=own, **more))
        samples = [{"image": file, **columns(n)} for n, file in enumerate(files)]
        how = {"max_new_tokens": 2} if task == "vqa" else {}
        found = mm.evaluate(model, samples, task, processor=processor, batch_size=2, progress=False, **how)
        yield task, [found.metrics, [[one.prediction, one.score] for one in found.questions]]

found = dict(models())
if os.environ.get("RANK", "0") == "0":
    with open(sys.argv[1], "w") as file:
        json.dump(found, file)
"""


@pytest.mark.slow
@pytest.mark.linux
def test_three_processes_give_the_numbers_of_one_in_every_task(tmp_path):
    """Five pictures in three shares: no share is padded, and nothing counts twice."""
    (tmp_path / "tasks.py").write_text(OTHER_TASKS)
    found = []
    for processes in (1, 3):
        out = tmp_path / f"{processes}.json"
        command = [sys.executable, "-W", "ignore"]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command += [str(tmp_path / "tasks.py"), str(out), *FEW]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(json.loads(out.read_text()))
    assert found[0].keys() == found[1].keys() == {"vqa", "retrieval", "classify"}
    for task, (metrics, answers) in found[0].items():
        assert metrics == pytest.approx(found[1][task][0], abs=1e-6)  # probabilities of other batches: to rounding
        assert answers == found[1][task][1]
    assert all(metrics["samples"] == 5 for metrics, _ in found[0].values())


def test_embeddings_and_logits_are_kept_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    image, texts, logits = (rng.normal(size=size).astype(np.float32) for size in (4, (2, 4), 3))
    sample = Sample(5, {"id": "a", "text": ["one", "two"], "image": "a.png"})
    question = Question("a", "b", 6, [0], label=np.int64(2))
    journal = Journal(tmp_path / "kept.jsonl", {})
    journal.add([(5, [(sample, image, texts)]), (6, [(question, logits)])])
    again = Journal(tmp_path / "kept.jsonl", {})
    assert again.done == {5, 6}
    (_, [(kept, one, two)]), (_, [(asked, three)]) = again.answers()
    assert (kept.number, kept.name(), kept.group(), kept.captions()) == (5, "a", sample.group(), ["one", "two"])
    assert np.array_equal(one, image) and np.array_equal(two, texts) and np.array_equal(three, logits)
    assert asked.label == 2 and asked.label.dtype == np.int64 and asked.sample == 6


def test_retrieval_has_every_metric_both_ways(processor):
    torch.manual_seed(0)
    parts = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(processor.tokenizer), "bos_token_id": processor.tokenizer.bos_token_id}
    config = mm.MMConfig(
        vision_config={**parts, "image_size": 128, "patch_size": 64},
        text_config={**parts, **text, "is_causal": False},
        projection_dim=8,
    )
    samples = [{"image": f"examples/pictures/{name}.png", "suffix": [name, f"a {name}"]} for name in FEW]
    model = mm.MMForImageTextRetrieval(config)
    found = mm.evaluate(model, samples, "retrieval", processor=processor, progress=False)
    for name in ("i2t_r1", "i2t_medr", "i2t_rprecision", "t2i_map", "t2i_ndcg"):
        assert found.metrics[f"{name}_low"] <= found.metrics[name] <= found.metrics[f"{name}_high"]
        assert name in str(found)
    assert found.questions[0].prediction in {text for sample in samples for text in sample["suffix"]}


def test_a_speech_model_is_measured_by_its_error_rates(tmp_path):
    """A table of sounds and transcripts; a row is heard as alone, whatever its batch."""
    model = saved_moonshine(tmp_path)
    for number, seconds in enumerate((0.3, 0.5, 0.4)):
        sound = np.random.default_rng(number).standard_normal(int(16000 * seconds)) / 5
        soundfile.write(tmp_path / f"{number}.wav", sound, 16000)
    rows = [{"audio": f"{number}.wav", "suffix": text} for number, text in enumerate(("a b c", "d e", "f g h i"))]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = mm.evaluate(str(model), tmp_path / "said.jsonl", progress=False, batch_size=3)
    assert found.task == "caption" and found.metrics["samples"] == 3
    told = [one.prediction for one in found.questions]
    truth = [one.references for one in found.questions]
    assert all(len(text.split()) >= 5 for text in told)
    assert found.metrics["wer"] == mm.metrics.wer(told, truth).value > 0.5
    assert found.metrics["cer"] == mm.metrics.cer(told, truth).value
    assert found.metrics["wer_low"] <= found.metrics["wer"] <= found.metrics["wer_high"]
    assert "bleu4" not in found.metrics and "wer" in str(found)
    alone = mm.evaluate(str(model), tmp_path / "said.jsonl", progress=False, batch_size=1)
    assert [one.prediction for one in alone.questions] == told
