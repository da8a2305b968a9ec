#!/bin/sh
# datumaro 1.13.12: a data set that is read from Pascal VOC, YOLO or LabelMe and written as COCO has annotation ids that
# several boxes share: those readers number the boxes of each picture from 0 on, and the COCO writer keeps these numbers
# and makes new ones only for 0. Of four pictures with three boxes each pycocotools knows 5 annotations of 12, and boxes
# that are all perfect have an AP of .16. Nothing is raised by either. From CVAT, Open Images or datumaro's own format the
# ids are 1 to 12 and the AP is 1. Guess before it was run: ids of a file are numbered anew, since COCO asks that each be
# there once.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q datumaro==1.13.12 pycocotools==2.0.11 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import contextlib
import io
import json
import logging
from importlib.metadata import version

import numpy as np
from datumaro import Bbox, Dataset, DatasetItem
from datumaro.components.media import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

assert version("datumaro") == "1.13.12"
logging.disable(logging.CRITICAL)
picture = Image.from_numpy(data=np.zeros((50, 60, 3), np.uint8))
boxes = [Bbox(20 * number, 5, 10, 10, label=number % 2) for number in range(3)]
items = [DatasetItem(id=str(number), subset="train", media=picture, annotations=boxes) for number in range(4)]
first = Dataset.from_iterable(items, categories=["dog", "cat"])
for kind in ("voc", "yolo", "label_me", "cvat", "open_images", "datumaro"):
    first.export(kind, kind, save_media=True)
    Dataset.import_from(kind, kind).export(f"{kind}-coco", "coco_instances", save_media=False)
    file = f"{kind}-coco/annotations/instances_train.json"
    with open(file) as text:
        written = json.load(text)["annotations"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(file)
        found = [{key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for one in written]
        score = COCOeval(truth, truth.loadRes(found), "bbox")
        score.evaluate()
        score.accumulate()
        score.summarize()
    ids = [one["id"] for one in written]
    print(f"by way of {kind}: ids {ids}, pycocotools knows {len(truth.anns)}, AP of the same boxes {score.stats[0]:.2f}")
    assert len(ids) == 12
    shared = kind in ("voc", "yolo", "label_me")
    assert (len(set(ids)) < 12) == shared and (score.stats[0] < 0.3) == shared, "the behaviour changed"
PY
