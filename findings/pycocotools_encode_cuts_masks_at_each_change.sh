#!/bin/sh
# pycocotools 2.0.11: mask.encode starts a new run wherever a value differs from the one above it, and takes every second
# run for the object. In a mask that holds more than zeros and one other number the object is then what comes at odd
# places: a column 0, 255, 1, 1, 2, 0 is encoded as 0, 1, 0, 0, 1, 0. So a mask with soft edges (resized, or drawn with
# antialiasing), a heat map in uint8 or a map of object numbers loses most of its area, and nothing is raised; area(),
# iou() and AP follow. Masks of 0 and 1, of 0 and 255 and of bool are right. (mask > 0) before is the way out. Guess before
# it was run: every number above zero is the object.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pycocotools==2.0.11 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from pycocotools import mask

assert version("pycocotools") == "2.0.11"
column = np.uint8([[0], [255], [1], [1], [2], [0]])
back = mask.decode(mask.encode(np.asfortranarray(column)))[:, 0].tolist()
print("the column", column[:, 0].tolist(), "comes back as", back)
assert back == [0, 1, 0, 0, 1, 0], "the behaviour changed"
down, across = np.mgrid[:64, :64]
away = np.hypot(down - 31.5, across - 31.5)
soft = np.uint8(255 * np.clip((24 - away) / 8, 0, 1))
objects = np.where(away < 24, 1 + (down // 8) % 3, 0).astype(np.uint8)
for name, given in {"soft edge": soft, "numbers of objects": objects}.items():
    whole = np.asfortranarray(given > 0)
    found = mask.encode(np.asfortranarray(given))
    right = mask.encode(whole)
    share = float(mask.iou([found], [right], [0])[0, 0])
    print(f"{name}: area {mask.area(found)} of {whole.sum()}, IoU with itself {share:.2f}")
    assert mask.area(right) == whole.sum()
    assert share < 0.95, "the behaviour changed"
plain = np.asfortranarray(np.uint8(255 * (away < 24)))
assert mask.area(mask.encode(plain)) == (away < 24).sum()
PY
