#!/bin/sh
# OpenCV 5.0.0: imwrite of a float16 array to TIFF writes 8 bits: a map of scores between 0 and 1 is zeros and ones, one
# of depths up to 1,000 ends at 255. float32 and float64 go into the same kind of file as they are. int64 ends up as
# int32, and a mask of bool as 0 and 1 of 255, a black picture. imwrite returns True each time.
# Guess before it was run: floats in the file, or an error.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import cv2
import numpy as np

assert version("opencv-python-headless") == "5.0.0.93"
scores = np.linspace(0, 1, 24).reshape(4, 6)
GIVEN = {
    "scores": scores,
    "depths": scores * 1000,
}
found = {}
for name, numbers in GIVEN.items():
    for kind in (np.float16, np.float32, np.float64):
        given = numbers.astype(kind)
        assert cv2.imwrite("map.tif", given)
        read = cv2.imread("map.tif", cv2.IMREAD_UNCHANGED)
        same = read.dtype == kind and bool((read == given).all())
        print(f"{name} of {given.dtype}: {read.dtype} in the file, {len(np.unique(read))} values up to {read.max():g}")
        assert same is (kind is not np.float16), "the behaviour changed"
        found[name, kind] = read
assert np.unique(found["scores", np.float16]).tolist() == [0, 1], "the behaviour changed"
assert found["depths", np.float16].dtype == np.uint8 and found["depths", np.float16].max() == 255, "the behaviour changed"
assert cv2.imwrite("mask.png", scores > 0.5) and cv2.imread("mask.png", -1).max() == 1, "the behaviour changed"
assert cv2.imwrite("ids.tif", np.array([[2**40 + 3, 5]]))
print("ids 2**40 + 3 and 5 of int64:", cv2.imread("ids.tif", cv2.IMREAD_UNCHANGED).tolist())
assert cv2.imread("ids.tif", cv2.IMREAD_UNCHANGED).dtype == np.int32, "the behaviour changed"
PY
