"""docs/tasks.md is true: its examples run one after the other, and say what the page says."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
LOGS = ROOT / "benchmarks" / "logs"


@pytest.fixture(scope="module")
def names():
    found: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S):
            exec(block, found)
    return found


def test_the_constraints_hold(names):
    without, longer = names["captions"]
    assert "rocket" not in without
    new = names["longer"][0].tolist()[1:]
    words = [token for token in new if token != names["tokenizer"].eos_token_id]
    assert len(new) >= 4 and len(set(words)) == len(words)


def test_the_rocket_is_the_likeliest_name_of_the_rocket(names):
    assert names["best"] == ["rocket"]
    assert names["scored"].scores.shape == (2,) and names["per_token"][0] > names["per_token"][1]


def test_the_tasks_share_one_picture_and_label_their_suffixes_alone(names):
    assert len(names["batch"]["pixel_values"]) == 1 and len(names["batch"]["input_ids"]) == 2
    for row, labels, words in zip(
        names["batch"]["input_ids"], names["batch"]["labels"], ("rocket", "travel"), strict=True
    ):
        assert torch.equal(labels[labels != -100], row[labels != -100])
        assert names["tokenizer"].decode(labels[labels != -100], skip_special_tokens=True) == words
    assert torch.isfinite(names["loss"]) and len(names["answers"]) == 2


def test_the_weights_are_one_on_average_and_the_outputs_are_of_their_shapes(names):
    assert torch.isclose((names["weights"] * names["counts"]).sum(), names["counts"].sum())
    assert names["said"].shape == (2, 4) and names["expected"].shape == (2,)
    assert set(names["shares"]) == set(names["alone"]) == {"text", "image"}
    assert abs(sum(names["shares"].values()) - 1) < 1e-6


def test_the_numbers_are_those_of_the_logs():
    ranking = (LOGS / "rank_answers.txt").read_text(encoding="utf-8")
    assert "37.5 M parameters" in ranking and "; 1 threads" in ranking
    words = " ".join(PAGE.split())
    for row, said in (
        ("one pair at a time", "answers score {} times as fast as one pair at a time"),
        ("the same from pixels", "{} times as fast as from pixels"),
    ):
        measured = re.search(rf"^{row} .* (\d+\.\d)x  ", ranking, re.M)
        assert measured is not None and said.format(measured[1]) in words
    table = (LOGS / "easy_vqa.txt").read_text(encoding="utf-8")
    for name, share in (("question alone", "0.670"), ("classifier", "0.998"), ("rank_answers", "0.998")):
        assert re.search(rf"^{name} +{re.escape(share)}", table, re.M)
    assert re.search(r"^rank_answers .* 3\.5$", table, re.M)
