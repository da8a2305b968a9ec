#!/bin/sh
# datasets 5.2.0: cast_column from one ClassLabel to another with the same names in another order keeps the numbers:
# each cat is a dog afterwards. So it is with more names in front (a background class). It is how labels of two data
# sets are brought to one order, since concatenate_datasets refuses to join two orders and asks for equal features;
# after the cast it joins them. A column of texts is cast by name, and align_labels_with_mapping moves the numbers.
# What one would expect: labels go by their names, or the cast is refused.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q datasets==5.2.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import datasets
from datasets import ClassLabel, Dataset, Features, concatenate_datasets

assert version("datasets") == "5.2.0"
datasets.disable_progress_bars()


def animals(names):
    features = Features({"label": ClassLabel(names=names)})
    return Dataset.from_dict({"label": [names.index("cat"), names.index("dog")]}, features)


def told(rows):
    return [rows.features["label"].int2str(one) for one in rows[:]["label"]]


first, second = animals(["cat", "dog"]), animals(["dog", "cat"])
assert told(first) == told(second) == ["cat", "dog"]
try:
    concatenate_datasets([first, second])
except ValueError:
    print("two orders are not joined")
else:
    raise AssertionError("the behaviour changed")
joined = concatenate_datasets([first, second.cast_column("label", first.features["label"])])
more = first.cast_column("label", ClassLabel(names=["background", "cat", "dog"]))
print("cat, dog and cat, dog are after a cast", told(joined), "and with a class in front", told(more))
assert told(joined) == ["cat", "dog", "dog", "cat"], "the behaviour changed"
assert told(more) == ["background", "cat"], "the behaviour changed"
moved = second.align_labels_with_mapping({"cat": 0, "dog": 1}, "label")
texts = Dataset.from_dict({"label": ["cat", "dog"]}).cast_column("label", ClassLabel(names=["dog", "cat"]))
assert told(moved) == ["cat", "dog"] == told(texts)
PY
