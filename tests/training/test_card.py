"""The model card of a run: valid for the Hub, nothing invented, nothing of the machine, code that ran."""

import html
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

import mm
from mm.training.card import (
    TO_FILL,
    base_of,
    card_of,
    escaped,
    fenced,
    is_hub_id,
    is_ours,
    metadata,
    table,
    write_card,
)
from mm.training.card_snippet import code_of, run_snippet
from mm.training.metrics import evaluate_task
from mm.training.publish import _NOT_PUSHED
from mm.training.recipe import run_arguments
from mm.training.run import TrainResult
from small_trainer import small_trainer

EVIL = "a | b <script>x</script> **bold** _i_ [l](http://x) `c` ```\n---\nkey: {[} # & $x$ ~~s~~ !"
METRICS = {
    "eval_loss": 1.0, "eval_exact_match": 0.5, "eval_exact_match_low": 0.25, "eval_exact_match_high": 0.75,
    "eval_samples": 8, "eval_media": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, processor):
    """A result whose folder holds a captioner and its processor."""
    folder = tmp_path_factory.mktemp("card") / "my-captioner"
    trainer = small_trainer(folder, processor, save_strategy="no")
    trainer.save_model()
    processor.save_pretrained(folder)
    return folder, trainer.model


@pytest.fixture
def result(trained, tmp_path, processor):
    def build(*words, task="caption", metrics=METRICS, report=("/home/me/secret/captions.json (coco): 9 rows",)):
        folder = tmp_path / "my-captioner"
        shutil.copytree(trained[0], folder, dirs_exist_ok=True)
        (arguments,) = run_arguments(
            [task, "--data", "/home/me/secret/captions.json", "--output", str(folder), *words]
        )
        history = [{"loss": 1.0, "step": 4}]
        return TrainResult(str(folder), task, trained[1], processor, history, dict(metrics), list(report), arguments)

    return build


def read(path) -> tuple[dict, str]:
    """The head and the text of a card."""
    _, head, text = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_head_is_metadata_of_the_hub_with_metrics_and_intervals(result):
    data = ModelCard.load(write_card(result())).data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "image-text-to-text",
        "cc-by-sa-4.0",
    )
    (metric,) = data.eval_results
    assert (metric.metric_type, metric.metric_value) == ("exact_match", 0.5)
    assert metric.metric_args == {"confidence": 0.95, "low": 0.25, "high": 0.75}
    assert data.tags == ["mm", "image-captioning"] and data.base_model is None and data.datasets is None


def test_the_license_is_that_of_the_base_or_asked_for_and_else_a_gap(result, tmp_path):
    own = shutil.copytree("checkpoints/mm-tiny", tmp_path / "base")
    assert base_of(result("--model", str(own)).arguments).license == "cc-by-sa-4.0"
    (own / "README.md").unlink()
    head, text = read(write_card(result("--model", str(own))))
    assert "license" not in head and f"{TO_FILL} (what it started from: base: unknown)" in text
    head, text = read(write_card(result("--model", str(own)), license="mit"))
    assert head["license"] == "mit"
    (own / "README.md").write_text("---\n: [ no yaml\n---\n")
    assert base_of(result("--model", str(own)).arguments).license is None
    assert base_of(result("--preset", "mm-tiny").arguments).license is None


def test_names_of_the_hub_are_told_and_folders_are_not(result, tmp_path, monkeypatch):
    arguments = result("--model", "somebody/model").arguments
    arguments.data.data, arguments.data.format = "somebody/pictures", "auto"
    made = result()
    made.arguments = arguments
    data = metadata(made, base_of(arguments), None)
    assert (data.base_model, data.datasets) == ("somebody/model", ["somebody/pictures"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somebody" / "model").mkdir(parents=True)
    assert not is_hub_id("somebody/model") and not is_hub_id("a/b.json") and not is_hub_id("/a/b")


def test_parts_with_two_licenses_give_none(result, tmp_path):
    arguments = result().arguments
    for name, license in (("one", "mit"), ("two", "apache-2.0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {license}\n---\n")
    arguments.model.vision_tower, arguments.model.text_tower = str(tmp_path / "one"), str(tmp_path / "two")
    base = base_of(arguments)
    assert base.license is None and base.licenses == {"one": "mit", "two": "apache-2.0"}


def test_the_code_ran_and_the_card_says_what_it_printed(result, processor):
    made = result()
    samples = [{"id": "r", "image": "examples/pictures/rocket.png", "suffix": "rocket"}]
    evaluate_task("caption", made.model, processor, samples, save_to=made.output_dir, max_new_tokens=4)
    _, text = read(write_card(made))
    snippet = run_snippet(write_card(made).parent, made.model)
    assert snippet is not None and snippet.printed is not None
    assert snippet.code in text and (snippet.printed or "(nothing)") in text
    assert "picture of the evaluation" in text and made.output_dir not in text


def test_code_that_fails_is_not_said_to_have_run(result):
    made = result()
    (write_card(made).parent / "model.safetensors").write_bytes(b"broken")
    _, text = read(write_card(made))
    assert "was not run" in text and "it printed" not in text


@pytest.mark.parametrize("prompt", [None, "what is it?", 'say "hi" \\ \n'])
@pytest.mark.parametrize(
    "kind", ["MMForConditionalGeneration", "MMForSequenceClassification", "MMForImageTextRetrieval"]
)
def test_code_of_each_class_is_python(kind, prompt):
    compile(code_of(kind, prompt), "card", "exec")


def test_code_of_a_model_that_compares_runs(processor, tmp_path):
    parts = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**parts, "vocab_size": len(processor.tokenizer), "is_causal": False}
    config = mm.MMConfig(
        vision_config={**parts, "image_size": 128, "patch_size": 64}, text_config=text, projection_dim=8
    )
    model = mm.MMForImageTextRetrieval(config)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    snippet = run_snippet(tmp_path, model)
    assert snippet is not None and "tensor" in str(snippet.printed), snippet.why


def test_nothing_of_the_machine_is_told(result):
    text = write_card(result("hub_token=hf_secret", "--eval_data", "/srv/private/eval.json")).read_text()
    for secret in ("/home/me", "secret", "hf_secret", "/srv", "private"):
        assert secret not in text
    assert "captions.json (coco): 9 rows" in text and "| data | captions.json |" in text


def test_what_left_the_machine_is_said_as_it_was(result):
    assert "Nothing: no data" in write_card(result()).read_text()
    made = result()
    made.arguments.training.report_to = ["wandb"]
    made.arguments.training.push_to_hub = True
    told = card_of(made, None)
    assert "its log to wandb and the model to the Hub" in told and "Nothing: no data" not in told


def test_markup_in_the_data_means_nothing(result):
    made = result(report=[f"captions.json: {EVIL}"])
    made.arguments.settings["note"] = EVIL
    path = write_card(made)
    head, text = read(path)
    assert head["library_name"] == "transformers"
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert (
        "<script>" not in shown and "<strong>bold" not in shown and "<em>i" not in shown and 'href="http' not in shown
    )
    assert html.unescape(shown).count(" ".join(EVIL.split())) == 2  # as it was, but for its line ends


def test_code_blocks_hold_any_fence_and_tables_any_cell():
    assert MarkdownIt().render(fenced("a\n```\nb")).count("<code") == 1
    made = MarkdownIt("commonmark").enable("table").render(table(["a", "b"], [["x|y", "z\nw"]]))
    assert made.count("<td>") == 2 and "x|y" in made
    assert MarkdownIt().render(escaped("# no\n1. list")).startswith("<p>")


def test_an_edited_card_stays_and_the_new_one_stands_beside_it(result):
    made = result()
    path = write_card(made)
    assert is_ours(path.read_text()) and write_card(made) == path  # written again where nobody touched it
    edited = path.read_text().replace(TO_FILL, "for fun", 1)
    path.write_text(edited)
    beside = write_card(made)
    assert beside.name == "README.new.md" and path.read_text() == edited and is_ours(beside.read_text())


def test_a_card_of_somebody_stays(result):
    made = result()
    path = write_card(made)
    path.write_text("# mine")
    assert write_card(made) != path and path.read_text() == "# mine"


def test_runs_without_metrics_say_so(result):
    assert "not evaluated" in write_card(result(metrics={})).read_text()
    assert "Loss on held-out data: 1." in write_card(result(metrics={"eval_loss": 1.0})).read_text()


@pytest.mark.parametrize("name", ["predictions.jsonl", "report.html", "samples.png", "bad_samples.jsonl"])
def test_files_that_hold_data_are_not_pushed(name):
    assert _NOT_PUSHED.fullmatch(name) and not _NOT_PUSHED.fullmatch("README.md")
