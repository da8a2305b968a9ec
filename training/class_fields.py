"""The fields of a classifier's config that follow from the labels of its data."""

from collections.abc import Mapping
from typing import Any

from ..data.rows import rows_of
from .samples import RunData


def class_fields(data: RunData, given: Mapping[str, Any]) -> dict[str, Any]:
    """num_labels, class names and problem_type, where `given`, the settings, do not say them.

    ValueError for data of one class, and for vectors that are not equally long.
    """
    names = data.label_names
    labels = [row["label"] for sample in data.train.samples for row in rows_of(sample) if row.get("label") is not None]
    kinds = {list if isinstance(label, list) else type(label) for label in labels}
    made: dict[str, Any] = {}
    if kinds == {list}:
        lengths = sorted({len(label) for label in labels})
        if len(lengths) > 1:
            raise ValueError(f"label is a vector of one length throughout; got lengths {lengths}")
        several = lengths[0] > 1
        made = {"num_labels": lengths[0], "problem_type": "multi_label_classification" if several else "regression"}
        if not all(value in (0, 1) for label in labels for value in label):
            made.pop("problem_type")  # soft targets of classes, or numbers: the settings say which
    elif kinds == {int}:
        made = {"num_labels": max(labels) + 1}
    elif kinds and kinds <= {int, float}:
        made = {"num_labels": 1, "problem_type": "regression"}
    if names is not None:
        ids = dict(enumerate(names))
        made |= {"num_labels": len(names), "id2label": ids, "label2id": {name: i for i, name in ids.items()}}
    if kinds == {int} and made["num_labels"] == 1 and "problem_type" not in given and "num_labels" not in given:
        told = f"all labels are {names[0]!r}" if names else "all labels are 0"
        raise ValueError(f"{told}: a classifier needs two classes or more")
    ours = ("problem_type",) if names is not None else ("problem_type", "num_labels")
    return {name: value for name, value in made.items() if name not in ours or name not in given}
