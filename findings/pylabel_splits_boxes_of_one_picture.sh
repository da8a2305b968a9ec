#!/bin/sh
# pylabel 0.1.55: splitter.GroupShuffleSplit(group_col="img_filename") is for splits in which no picture is in two parts,
# and splits by boxes: each row of its table, a box, is a group of its own, whatever group_col says. Of ten pictures with
# four boxes each nearly all have boxes in training and in test or validation too. The pictures themselves are then in
# both, and a test score is of pictures that were trained on. GroupShuffleSplit of scikit-learn 1.9.1 with the same column
# keeps them apart. Guess before it was run: each picture in one part.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pylabel==0.1.55 pandas==3.0.0 scikit-learn==1.9.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import json
from importlib.metadata import version

import pylabel.importer
from sklearn.model_selection import GroupShuffleSplit

assert version("pylabel") == "0.1.55"
pictures = [{"id": number, "file_name": f"{number}.png", "width": 100, "height": 80} for number in range(10)]
boxes = [
    {"id": number, "image_id": number % 10, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}
    for number in range(40)
]
with open("boxes.json", "w") as file:
    json.dump({"images": pictures, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}, file)
for seed in range(3):
    data = pylabel.importer.ImportCoco("boxes.json")
    data.splitter.GroupShuffleSplit(
        train_pct=0.6, test_pct=0.2, val_pct=0.2, group_col="img_filename", random_state=seed
    )
    parts = {part: set(rows.img_filename) for part, rows in data.df.groupby("split")}
    both = parts["train"] & (parts["test"] | parts["val"])
    counts = {part: len(names) for part, names in parts.items()}
    print(f"seed {seed}, of 10 pictures: {counts}, {len(both)} of them in training and not only there")
    assert len(both) >= 5, "the behaviour changed"
    names = data.df.img_filename
    first, second = next(GroupShuffleSplit(1, train_size=0.6, random_state=seed).split(names, groups=names))
    assert not set(names.iloc[first]) & set(names.iloc[second])
PY
