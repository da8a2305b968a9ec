"""The report of a run: a log that never doubles a step, curves of what is in it, a page that loads nothing."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from mm.training.curves import panels_of, save_curves, series_of
from mm.training.log import JsonlLog, write_log
from mm.training.metrics import evaluate_task
from mm.training.provenance import settings_of, versions, without_places
from mm.training.report import write_report
from mm.training.run import TrainResult
from small_trainer import small_trainer

EVIL = "</pre><script>alert(1)</script>&<img src=x onerror=alert(2)>\"'"
HISTORY = [
    {"loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0, "epoch": 0.5, "step": 1},
    {"loss": float("nan"), "learning_rate": 0.1, "epoch": 1.0, "step": 2},
    {"eval_loss": 1.5, "eval_exact_match": 0.5, "eval_exact_match_low": 0.4, "eval_exact_match_high": 0.6,
     "eval_chrf": 50.0, "eval_runtime": 1.0, "epoch": 1.0, "step": 2},
]  # fmt: skip


def read_log(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.fixture
def result(tmp_path, processor):
    trainer = small_trainer(tmp_path / "run", processor, [JsonlLog()], save_strategy="no", max_steps=2)
    trainer.train()
    samples = [{"id": EVIL, "image": Image.new("RGB", (300, 200), "red"), "text": "what", "suffix": [EVIL, "a dog"]}]
    samples.append({"id": "b", "image": Image.new("RGB", (8, 8), "blue"), "text": "who", "suffix": "a cat"})
    metrics = evaluate_task(
        "caption", trainer.model, processor, samples, save_to=tmp_path / "run", max_new_tokens=4
    )  # fmt: skip
    history = trainer.state.log_history
    return TrainResult(
        str(tmp_path / "run"), "caption", trainer.model, processor, history, metrics, [f"1 rows left out: {EVIL}"],
        trainer.args,
    )  # fmt: skip


class Page(HTMLParser):
    """Which tags and attributes a page has, and its text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_log_is_written_while_training_and_is_trainers_own(tmp_path, processor):
    seen = []

    class Look(JsonlLog):
        def on_log(self, args, state, control, **kwargs):
            super().on_log(args, state, control, **kwargs)
            seen.append(len(read_log(tmp_path / "run")))

    trainer = small_trainer(tmp_path / "run", processor, [Look()], save_strategy="no")
    trainer.train()
    assert seen == list(range(1, len(trainer.state.log_history) + 1))
    assert read_log(tmp_path / "run") == trainer.state.log_history


@pytest.mark.slow
def test_a_run_that_goes_on_doubles_no_step(tmp_path, processor):
    whole = small_trainer(tmp_path / "run", processor, [JsonlLog()])
    whole.train()
    again = small_trainer(tmp_path / "run", processor, [JsonlLog()])
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    steps = [line["step"] for line in read_log(tmp_path / "run") if "loss" in line]
    assert steps == [1, 2, 3, 4]


def test_numbers_that_are_not_finite_are_words(tmp_path):
    write_log(HISTORY, tmp_path)
    assert read_log(tmp_path)[1]["loss"] == "nan"
    assert "NaN" not in (tmp_path / "train_log.jsonl").read_text()


def test_curves_are_those_of_the_log():
    series = series_of(HISTORY)
    assert series["loss"] == [(1, 2.0)] and series["eval_exact_match_low"] == [(2, 0.4)]
    assert dict(panels_of(series)) == {
        "loss": ["loss", "eval_loss"], "metrics": ["eval_exact_match"], "chrF": ["eval_chrf"],
        "learning rate": ["learning_rate"], "gradient norm": ["grad_norm"],
    }  # fmt: skip


def test_curves_are_a_picture_and_nothing_gives_none(tmp_path):
    path = save_curves(HISTORY, tmp_path)
    with Image.open(path) as picture:
        assert (
            picture.format == "PNG" and min(picture.size) > 400 and len(picture.convert("RGB").getcolors(1 << 24)) > 9
        )
    assert save_curves([{"step": 1}], tmp_path) is None


def test_all_files_are_written_into_the_output_folder(result, tmp_path):
    paths = write_report(result)
    assert [path.name for path in paths] == ["train_log.jsonl", "curves.png", "report.html"]
    assert all(path.parent == tmp_path / "run" and path.stat().st_size for path in paths)


def test_the_page_loads_nothing_and_holds_no_markup_of_the_data(result, tmp_path):
    write_report(result)
    source = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "a", "form"})
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    sources = [attrs["src"] for tag, attrs in page.tags if "src" in attrs]
    assert len(sources) >= 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|url\(", source)
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert page.text.count(EVIL) >= 3  # as text: the id, the reference, the reason


def test_the_page_says_metrics_with_their_intervals_settings_and_versions(result, tmp_path):
    write_report(result)
    text = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    assert "exact_match" in text and "95 % interval" in text and "0 to 0" in text
    assert "max_steps" in text and versions()["torch"] in text and "2 steps" in text


def test_without_matplotlib_one_line_says_so(result, tmp_path, monkeypatch):
    monkeypatch.setattr("mm.training.curves.find_spec", lambda name: None)
    assert [path.name for path in write_report(result)] == ["train_log.jsonl", "report.html"]
    assert "pip install '.[train]'" in Page((tmp_path / "run" / "report.html").read_text()).text


@pytest.mark.slow
def test_matplotlib_is_imported_only_for_curves():
    code = "import sys, mm.training.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0


def test_tokens_are_never_told_and_places_only_by_their_last_name(result):
    result.arguments.hub_token = "hf_secret"
    told = settings_of(result.arguments)
    assert told["max_steps"] == 2 and "hf_secret" not in str(told)
    place = "/home/somebody/data/captions.json"
    assert without_places({"data": place, "rate": 0.1, "columns": {"a": "b"}}) == {
        "data": "captions.json", "rate": 0.1, "columns": {"a": "b"},
    }  # fmt: skip
