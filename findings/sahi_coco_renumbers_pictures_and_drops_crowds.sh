#!/bin/sh
# sahi 0.12.8: Coco.from_coco_dict_or_path(file).json, through which its tools for slicing, merging, splitting and sampling
# go, is another data set: pictures and annotations are numbered from 1 on in the order of the file, so that predictions
# with the ids of the file belong to other pictures; corners of polygons are cut to whole pixels (10.9 is 10) and areas
# too; iscrowd is 0 for all, so that regions to leave out count as objects. Boxes keep their fractions and categories their
# ids. Nothing is said. What one would expect: what is read and written unchanged is equal.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q opencv-python-headless==4.13.0.92 numpy==2.4.6 shapely==2.2.0 pillow==13.0.0 pyyaml==6.0.4 requests tqdm
"$work/venv/bin/pip" --disable-pip-version-check install -q --no-deps sahi==0.12.8
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import contextlib
import io
from importlib.metadata import version

from sahi.utils.coco import Coco

assert version("sahi") == "0.12.8"
given = {
    "images": [{"id": 9, "file_name": "a.png", "width": 100, "height": 80},
               {"id": 1, "file_name": "b.png", "width": 50, "height": 50}],
    "categories": [{"id": 7, "name": "dog"}],
    "annotations": [
        {"id": 30, "image_id": 9, "category_id": 7, "bbox": [10.5, 10.25, 20.5, 30.75], "area": 630.4, "iscrowd": 1},
        {"id": 31, "image_id": 1, "category_id": 7, "bbox": [2.5, 3, 8.4, 6.9], "area": 28.98, "iscrowd": 0,
         "segmentation": [[2.5, 3, 10.9, 3, 10.9, 9.9]]},
    ],
}
with contextlib.redirect_stderr(io.StringIO()):
    back = Coco.from_coco_dict_or_path(given).json
print("pictures:", {one["file_name"]: one["id"] for one in back["images"]})
print("annotations:", [{key: one[key] for key in ("image_id", "bbox", "iscrowd", "segmentation")} for one in back["annotations"]])
assert {one["file_name"]: one["id"] for one in back["images"]} == {"a.png": 1, "b.png": 2}, "the behaviour changed"
assert [one["iscrowd"] for one in back["annotations"]] == [0, 0], "the behaviour changed"
assert back["annotations"][1]["segmentation"] == [[2, 3, 10, 3, 10, 9]], "the behaviour changed"
assert back["annotations"][0]["bbox"] == [10.5, 10.25, 20.5, 30.75]
assert back["categories"][0]["id"] == 7
PY
