#!/bin/sh
# albumentations 2.0.8: what goes with the boxes in label_fields is kept beside them in float32 while it is numbers. Ids come
# back as floats, and above 16,777,216 as those of others: 16777217 as 16777216.0, COCO's crowd annotation 900100259690 as
# 900100259840.0, two ids in a row as one. True and False come back as 1.0 and 0.0. Nothing is said. Ids as strings come back
# as they were, but in a Compose that has seen numbers before they are made numbers and rounded too.
# Guess before it was run: ids come back equal, and as integers.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q albumentations==2.0.8 numpy==2.4.6
NO_ALBUMENTATIONS_UPDATE=1 "$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import albumentations
import numpy as np

assert version("albumentations") == "2.0.8"
told = albumentations.BboxParams("coco", label_fields=["ids"])
picture = np.zeros((64, 64, 3), np.uint8)


def new():
    return albumentations.Compose([albumentations.HorizontalFlip(p=1)], bbox_params=told)


def through(flip, ids):
    back = flip(image=picture, bboxes=[[5 * number, 5, 10, 10] for number in range(len(ids))], ids=ids)["ids"]
    print(ids, "come back as", back)
    return back


flip = new()
rounded = through(flip, [16777216, 16777217, 900100259690])
assert rounded == [16777216.0, 16777216.0, 900100259840.0], "the behaviour changed"
assert through(flip, ["16777217"]) == [16777216.0], "the behaviour changed"
assert [str(one) for one in through(new(), [True, False])] == ["1.0", "0.0"], "the behaviour changed"
assert through(new(), ["16777217", "900100259690"]) == ["16777217", "900100259690"]
PY
