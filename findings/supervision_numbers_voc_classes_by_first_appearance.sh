#!/bin/sh
# supervision 0.31.2: DetectionDataset.from_pascal_voc numbers classes in the order in which they first appear in the files,
# so that the two halves of one data set have other ids: a dog is class 0 in the training pictures and 1 in the held-out
# ones, and a detector that is right everywhere has an accuracy of 0 by class_id. from_labelme of the same library sorts by name.
# Guess before it was run: sorted by name, so that halves with the same classes have the same ids.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q supervision==0.31.2 numpy==2.4.6
cd "$work"
venv/bin/python -W ignore - <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

import supervision as sv
from PIL import Image

assert version("supervision") == "0.31.2"
OBJECT = "<object><name>{}</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
classes, ids, sorted_ones = {}, {}, []
for half, pictures in (("train", {"1": "dog", "2": "cat"}), ("held-out", {"3": "cat", "4": "dog"})):
    folder = Path(half)
    folder.mkdir()
    for number, name in pictures.items():
        Image.new("RGB", (16, 16)).save(folder / f"{number}.jpg")
        size = "<size><width>16</width><height>16</height><depth>3</depth></size>"
        told = f"<annotation><filename>{number}.jpg</filename>{size}{OBJECT.format(name)}</annotation>"
        (folder / f"{number}.xml").write_text(told)
        shape = {"label": name, "points": [[2, 2], [9, 9]], "shape_type": "rectangle"}
        told = {"imagePath": f"{number}.jpg", "imageHeight": 16, "imageWidth": 16, "shapes": [shape]}
        (folder / f"{number}.json").write_text(json.dumps(told))
    read = sv.DetectionDataset.from_pascal_voc(half, half)
    classes[half] = read.classes
    sorted_ones.append(sv.DetectionDataset.from_labelme(half, half).classes)
    ids[half] = {pictures[Path(path).stem]: int(found.class_id[0]) for path, _, found in read}
    print(f"{half}: classes {classes[half]}, ids {ids[half]}; of LabelMe {sorted_ones[-1]}")
assert classes == {"train": ["dog", "cat"], "held-out": ["cat", "dog"]}, "the behaviour changed"
assert ids == {"train": {"dog": 0, "cat": 1}, "held-out": {"dog": 1, "cat": 0}}, "the behaviour changed"
assert sorted_ones == [["cat", "dog"]] * 2
PY
