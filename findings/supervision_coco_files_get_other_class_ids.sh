#!/bin/sh
# supervision 0.31.2: DetectionDataset.from_coco and as_coco number pictures, annotations and classes anew from 1 on:
# classes 1, 3 and 17 of a file (COCO's own ids have such holes) are 1, 2 and 3 in the file that it writes, and picture
# 7 is 1. A detector that answers in COCO's ids, or predictions that were saved by picture id, are then scored against
# other objects: of perfect boxes pycocotools 2.0.11 finds an AP of 1 by the old file and of 0 by the new one. Nothing
# is said. Names of classes and files stay and are the way back. Guess before it was run: the ids of the file are kept.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q supervision==0.31.2 pycocotools==2.0.11 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import contextlib
import io
import json
import os

import supervision
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

assert version("supervision") == "0.31.2"
os.mkdir("pictures")
names, boxes = {7: "a.jpg", 9: "b.jpg"}, {7: (3, [10, 10, 20, 20]), 9: (17, [0, 0, 50, 50])}
for name in names.values():
    Image.new("RGB", (100, 80)).save(f"pictures/{name}")
data = {
    "images": [{"id": one, "file_name": name, "width": 100, "height": 80} for one, name in names.items()],
    "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}],
    "annotations": [
        {"id": one, "image_id": one, "category_id": kind, "bbox": box, "area": box[2] * box[3]}
        | {"iscrowd": 0, "segmentation": []}
        for one, (kind, box) in boxes.items()
    ],
}
with open("old.json", "w") as file:
    json.dump(data, file)
supervision.DetectionDataset.from_coco("pictures", "old.json").as_coco(annotations_path="new.json")
perfect = [{"image_id": one, "category_id": kind, "bbox": box, "score": 0.9} for one, (kind, box) in boxes.items()]


def precision(path, told):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        told = [one for one in told if one["image_id"] in truth.imgs]
        if not told:
            return 0.0
        score = COCOeval(truth, truth.loadRes(told), "bbox")
        score.evaluate()
        score.accumulate()
        score.summarize()
    return round(float(score.stats[0]), 3)


with open("new.json") as file:
    new = json.load(file)
classes = {one["name"]: one["id"] for one in new["categories"]}
pictures = {one["file_name"]: one["id"] for one in new["images"]}
same = [{**one, "image_id": pictures[names[one["image_id"]]]} for one in perfect]
found = [precision("old.json", perfect), precision("new.json", perfect), precision("new.json", same)]
print(f"classes {classes}, pictures {pictures}; AP by the old file, the new one, the new one with its picture ids: {found}")
assert classes == {"person": 1, "car": 2, "cat": 3} and pictures == {"a.jpg": 1, "b.jpg": 2}, "the behaviour changed"
assert found == [1.0, 0.0, 0.0], "the behaviour changed"
PY
