"""Several classes of a row: scores by hand, and a run of `mm train` from a table to a card that names every class."""

import json

import numpy as np
import pytest

from mm.training.label_sets import score_label_sets
from mm.training.predictions import Question
from mm.training.recipe import make_arguments
from mm.training.run import train


def questions(count):
    return [Question(str(row), str(row), row, [row]) for row in range(count)]


def test_scores_are_those_by_hand():
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], np.float32)
    logits = np.array([[2, -1, -1], [3, -1, -1], [-1, -1, 5]], np.float32)
    asked = questions(3)
    found = score_label_sets(asked, logits, labels, ["red", "round", "new"])
    assert found["micro_f1"][0] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["macro_f1"][0] == pytest.approx((1 + 0 + 0) / 3) and found["exact_match"][0] == pytest.approx(1 / 3)
    assert [(one.prediction, one.references, one.score) for one in asked] == [
        ("red", ["red"], 1.0), ("red", ["red, round"], pytest.approx(2 / 3)), ("new", [""], 0.0)
    ]  # fmt: skip


def test_right_answers_score_one_also_where_a_row_has_no_class():
    labels = np.array([[0, 0], [1, 0], [0, 0]], np.float32)
    found = score_label_sets(questions(3), labels * 4 - 2, labels)
    assert all(value == (1, 1, 1) for value in found.values())


def test_soft_labels_are_refused():
    with pytest.raises(ValueError, match="0 and 1"):
        score_label_sets(questions(1), np.zeros((1, 2)), np.full((1, 2), 0.5))


@pytest.fixture
def table(colours, tmp_path):
    def write(label):
        path = tmp_path / "labels.jsonl"
        lines = [{"image": one.name, **label(one.stem)} for one in sorted(colours.glob("*.png"))]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {"data": str(path), "media": str(colours)}

    return write


@pytest.mark.slow
def test_a_table_of_several_labels_trains_a_classifier_of_them(settings, table, tmp_path):
    data = table(lambda name: {"label": [name.split("-")[0], "small" if "8" in name else "large"]})
    result = train(make_arguments(settings("classify", **data)), lambda line: None)
    config = result.model.config
    assert config.problem_type == "multi_label_classification" and config.num_labels == 8
    assert {"red", "small"} <= set(config.id2label.values()) and "eval_micro_f1" in result.metrics
    card = (tmp_path / "out" / "README.md").read_text()
    assert "sigmoid" in card and "micro_f1" in card


def test_a_row_without_a_label_is_left_out_before_anything_is_loaded(settings, table):
    data = table(lambda name: {} if name == "red-8" else {"label": "x" if name < "h" else "y"})
    told = []
    arguments = settings("classify", **data, dry_run=True)
    train(make_arguments(arguments), told.append)
    assert sum("it holds image, and no text, suffix or label" in line for line in told) == 1
    with pytest.raises(ValueError, match="and no text, suffix or label"):
        train(make_arguments({**arguments, "on_error": "raise", "model": "nowhere"}), told.append)


@pytest.mark.parametrize(("label", "told"), [({"label": "x"}, "two classes"), ({"suffix": "x"}, "needs label")])
def test_labels_that_teach_nothing_are_told_before_the_model_loads(settings, table, label, told):
    with pytest.raises(ValueError, match=told):
        train(make_arguments(settings("classify", **table(lambda name: label), model="nowhere")), lambda line: None)


def test_numbers_that_are_no_modality_are_refused(settings, table):
    data = table(lambda name: {"label": name})
    rows = [json.loads(line) for line in open(data["data"])]
    with open(data["data"], "w") as file:
        file.writelines(json.dumps({"ecg": [0.1, 0.2], "label": row["label"]}) + "\n" for row in rows)
    with pytest.raises(ValueError, match="time series"):
        train(make_arguments(settings("classify", **data, model="nowhere")), lambda line: None)


def test_the_lowest_error_is_the_best(settings, table):
    """Transformers takes the highest value of every metric that does not end in "loss"."""
    data = table(lambda name: {"label": len(name) + 0.5})
    arguments = make_arguments(
        settings("classify", **data, dry_run=True, metric_for_best_model="mean_absolute_error",
                 load_best_model_at_end=True, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1)
    )  # fmt: skip
    assert arguments.training.greater_is_better
    train(arguments, lambda line: None)
    assert arguments.training.greater_is_better is False
