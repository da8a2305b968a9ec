"""Labels as numbers: several classes of a row are one vector; nothing is guessed where kinds are mixed."""

import json

import pytest

import mm
from mm.data.errors import DataError
from mm.data.labels import class_names, numbered, places_of, renumbered
from mm.data.rows import rows_of


@pytest.mark.parametrize(
    ("labels", "names", "made"),
    [
        (["b", "a"], ["a", "b"], [1, 0]),
        ([["b"], [], ["b", "a"]], ["a", "b"], [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]),
        ([[2], [0, 1]], ["0", "1", "2"], [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]),
        ([[1], [0]], ["0", "1"], [[0.0, 1.0], [1.0, 0.0]]),
        ([[0, 1, 0], [1, 1, 0]], None, [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]),
        ([[0.25, 0.75]], None, [[0.25, 0.75]]),
        ([3, 0], None, [3, 0]),
        ([0.5], None, [0.5]),
    ],
)
def test_each_kind_of_label_becomes_a_number_or_a_vector(labels, names, made):
    found = class_names(labels)
    assert found == names and [numbered(label, places_of(found)) for label in labels] == made


@pytest.mark.parametrize(("labels", "told"), [(["a", 1], "words"), ([["a"], "a"], "lists"), ([[], []], "empty"),
                                              ([["a"], [1]], "words"), ([[-1], [2, 3]], "-1")])  # fmt: skip
def test_mixed_labels_are_an_error(labels, told):
    with pytest.raises(DataError, match=told):
        class_names(labels)


def test_a_vector_moves_to_the_places_of_other_classes():
    assert renumbered([1.0, 0.0], ["b", "d"], ["a", "b", "c", "d"]) == [0.0, 1.0, 0.0, 0.0]
    assert renumbered(1, ["b", "d"], ["a", "b", "c", "d"]) == 3


def test_a_vector_of_one_row_is_not_taken_for_several_rows():
    assert [row["label"] for row in rows_of({"id": "1", "label": [0.0, 1.0]})] == [[0.0, 1.0]]
    rows = rows_of({"id": "1", "text": ["x", "y"], "label": [[0.0, 1.0], [1.0, 0.0]], "row_ids": ["2", "3"]})
    assert [(row["text"], row["label"][0], row["row_ids"]) for row in rows] == [("x", 0.0, "2"), ("y", 1.0, "3")]


def test_a_table_and_a_data_set_give_the_same_vectors(tmp_path):
    datasets = pytest.importorskip("datasets")
    lines = [{"text": "one", "label": ["b"]}, {"text": "two", "label": ["a", "b"]}, {"text": "three", "label": []}]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = mm.load_data(path)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=["a", "b"]))}
    )
    held = mm.load_data(datasets.Dataset.from_list(lines, features=features))
    assert table.label_names == held.label_names == ["a", "b"]
    assert [s["label"] for s in table.samples] == [s["label"] for s in held.samples] == [[0, 1], [1, 1], [0, 0]]
    assert table.fingerprint() == held.fingerprint()
