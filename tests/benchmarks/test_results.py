"""benchmarks/results.py: what it counts, and the page that it makes of its log."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import results
from PIL import Image


def test_a_row_holds_the_mean_its_interval_and_the_difference_item_by_item():
    right, copied = np.array([1.0, 1, 1, 0] * 25), np.array([1.0, 0, 0, 0] * 25)
    row = results.counted("names", right, copied)
    assert row["number"] == 100 and row["right"][0] == 0.75 and row["baseline"][0] == 0.25
    mean, low, high = row["difference"]
    assert mean == 0.5 and 0.35 < low < 0.45 < 0.55 < high < 0.65
    assert "baseline" not in results.counted("names", right)


def test_ranks_count_the_candidates_that_are_better_both_ways():
    likeness = np.array([[0.1, 0.9, 0.5], [0.8, 0.2, 0.7]])  # two pictures, three names; theirs are 1 and 2
    found = results.ranks(likeness, np.array([1, 2]))
    assert found["names for pictures"].tolist() == [0, 1]
    assert found["pictures for names"].tolist() == [0, 0]
    found = results.ranks(likeness, np.array([1, 1]))
    assert found["pictures for names"].tolist() == [0, 1]


def test_groups_and_the_other_sex(monkeypatch):
    entries = [("1F469", 1), ("1F468", 1), ("1F9D1", 1), ("1F34E", 4)]
    monkeypatch.setattr(results, "emojibase", lambda _: [{"hexcode": code, "group": group} for code, group in entries])
    labels = ["woman farmer", "man farmer", "person running", "red apple"]
    items = [
        SimpleNamespace(concept=code.lower(), label=label) for (code, _), label in zip(entries, labels, strict=True)
    ]
    texts = ["man farmer", "man farmer", "woman running", "red apple"]
    right = np.array([text == label for text, label in zip(texts, labels, strict=True)], float)
    found = {row["group"]: row for row in results.by_group(items, texts, right)}
    assert found["people"]["number"] == 3 and found["people"]["right"][0] == pytest.approx(1 / 3, abs=1e-4)
    assert found["food"]["right"] == [1, 1, 1] and "flags" not in found
    assert found['names with "woman"']["other"] == ["man", 1.0] and found['names with "man"']["other"] == ["woman", 0]
    assert "other" not in found['names with "person"']


def test_the_page_has_a_row_for_each_model_and_names_its_pictures(tmp_path):
    row = {"what": "known names, English", "number": 9, "right": [0.5, 0.25, 0.75]}
    beside = {"beside": results.HOG, "baseline": [0.25, 0, 0.5], "difference": [0.25, -0.125, 0.5]}
    groups = [{"group": 'names with "man"', "number": 3, "right": [1, 1, 1], "other": ["woman", 0.25]}]
    spoken = {**row, **beside, "what": "spoken new names, French, R@1", "chance": 0.007}
    models = {
        "mm-tiny-spoken": {"spoken": [spoken]},
        "one": {"results": [row], "groups": groups},
        "six": {"results": [row | beside, {**row, "what": "easy-VQA"}], "groups": groups},
    }
    machine = {"processor": "a CPU", "Python": "3", "torch": "2", "transformers": "5"}
    (tmp_path / "log.json").write_text(json.dumps({"machine": machine, "models": models}), encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "results-maps.png").write_bytes(b"")
    assert results.main(["--page", "--log", str(tmp_path / "log.json"), "--output", str(tmp_path)]) == 0
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| known names, English | 9 | one | .500 [.250, .750] |  |  |  |" in text
    assert f"| six | .500 [.250, .750] | {results.HOG} | .250 [.000, .500] | +.250 [-.125, +.500] |" in text
    assert '| names with "man" | 3 | six | 1.000 [1.000, 1.000] | 0.250 "woman" |' in text
    assert "| spoken new names, French, R@1 | 9 | .007 | .500 [.250, .750] | .250 [.000, .500] | +.250" in text
    assert "pictures/results-maps.png" in text and "results-names" not in text


def test_rows_of_the_test_style_stay_with_the_weights_that_they_were_measured_of(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    weights = results.weights_of(tmp_path)
    rows = [{"what": "known names, English"}, {"what": "OpenMoji, known names, English"}]
    assert results.of_test_style({"weights": weights, "results": rows}, weights) == rows[1:]
    assert results.of_test_style({"weights": "others", "results": rows}, weights) == []
    assert results.of_test_style({"results": rows}, weights) == results.of_test_style({}, weights) == []


def test_a_sheet_has_a_place_for_every_drawing():
    drawn = results.sheet([Image.new("RGB", (9, 9))] * 3, ["a", "b", "c"], [True, False, False], columns=2)
    titles = [axis.get_title() for axis in drawn.axes]
    assert titles == ["a", "b", "c", ""] and drawn.axes[0].title.get_color() != drawn.axes[1].title.get_color()
    assert results.folded("a long name of many words and more and more").count("\n") == 1
