#!/bin/sh
# datasets 5.2.0: class_encode_column of a column of integers turns them into words, sorts the words and numbers those: with
# eleven classes or more 2 becomes 4 and 10 becomes 2, since "10" comes before "2". A model trained on the column before,
# or on the same labels read elsewhere, names other classes than the column after; accuracy by id is off without a word.
# Up to ten classes from 0 on nothing moves, so a small test does not show it. With cast_column(ClassLabel(12)) ids stay.
# What one would expect: integers 0 to 11 are class ids already and stay what they are.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q datasets==5.2.0 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" -W ignore - <<'PY'
import datasets
from datasets import ClassLabel, Dataset

assert datasets.__version__ == "5.2.0"
datasets.disable_progress_bars()
for classes, moved in ((10, 0), (12, 10), (100, 88)):
    labels = list(range(classes))
    before = Dataset.from_dict({"label": labels})
    after = before.class_encode_column("label")
    ids = after["label"][:]
    print(f"{classes} classes: ids {ids[:12]}{' ...' if classes > 12 else ''}, names {after.features['label'].names[:5]} ...")
    print(f"    other than before: {sum(a != b for a, b in zip(ids, labels, strict=True))}")
    assert sum(a != b for a, b in zip(ids, labels, strict=True)) == moved, "the behaviour changed"
    assert before.cast_column("label", ClassLabel(classes))["label"][:] == labels
PY
