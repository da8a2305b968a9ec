#!/bin/sh
# faster-coco-eval 1.8.0 has a fault of pycocotools 2.0.11 too: an annotation whose id is 0 is never found. Matches are kept as
# ids, and 0 there means no match. A file whose ids begin with 0 (a list numbered by its places) loses one object: perfect
# boxes for three objects have AP .44 and not 1, for a single object 0. Ids from 1 on, all else equal, give 1. No word is said.
# Guess before it was run: faster-coco-eval, which was written anew, has mended it.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q faster-coco-eval==1.8.0 pycocotools==2.0.11 numpy==2.4.6
cd "$work"
venv/bin/python -W ignore - <<'PY'
import contextlib
import io
from importlib.metadata import version

import faster_coco_eval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

assert (version("faster-coco-eval"), version("pycocotools")) == ("1.8.0", "2.0.11")


def average_precision(objects, first, files, evaluation):
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [30 * place, 5, 20, 20]} for place in range(objects)]
    truth = files()
    truth.dataset = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{**box, "id": first + place, "area": 400, "iscrowd": 0} for place, box in enumerate(boxes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = evaluation(truth, truth.loadRes([{**box, "score": 0.9} for box in boxes]), "bbox")
        judge.evaluate(), judge.accumulate(), judge.summarize()
    return round(float(judge.stats[0]), 2)


found = {}
for name, tools in {
    "pycocotools": (COCO, COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
}.items():
    found[name] = {(objects, first): average_precision(objects, first, *tools) for objects in (1, 3) for first in (0, 1)}
    for (objects, first), value in found[name].items():
        print(f"{name}, perfect boxes for {objects} with ids from {first}: AP {value}")
    assert found[name] == {(1, 0): 0.0, (1, 1): 1.0, (3, 0): 0.44, (3, 1): 1.0}, "the behaviour changed"
PY
