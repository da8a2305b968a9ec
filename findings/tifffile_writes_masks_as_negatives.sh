#!/bin/sh
# tifffile 2026.3.3: imwrite of an array of bool, as masks are, says in the file that 0 is white (MINISWHITE), and keeps
# the bits as they are. By the format True is then black: Pillow 13.0.0 and OpenCV 5.0.0 read the negative of the mask,
# what is object becomes background; tifffile itself, which leaves that tag alone when it reads, gives back what was
# written. The same mask as uint8, or with photometric="minisblack", is the same to all three.
# Guess before it was run: True is white, as for uint8.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q tifffile==2026.3.3 pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import cv2
import numpy as np
import tifffile
from PIL import Image

assert (version("tifffile"), version("pillow")) == ("2026.3.3", "13.0.0")
mask = np.zeros((40, 60), bool)
mask[10:20, 5:25] = True
for given, settings in ((mask, {}), (mask, {"photometric": "minisblack"}), (mask.astype("uint8") * 255, {})):
    tifffile.imwrite("mask.tif", given, **settings)
    read = {
        "tifffile": tifffile.imread("mask.tif"),
        "Pillow": np.asarray(Image.open("mask.tif").convert("L")),
        "OpenCV": cv2.imread("mask.tif", cv2.IMREAD_GRAYSCALE),
    }
    shares = {name: round(float((pixels > 0).mean()), 3) for name, pixels in read.items()}
    print(f"{given.dtype} {settings or ''}: share of the picture that is object, of {mask.mean():.3f}: {shares}")
    if given is mask and not settings:
        assert shares == {"tifffile": 0.083, "Pillow": 0.917, "OpenCV": 0.917}, "the behaviour changed"
        assert ((read["Pillow"] > 0) == ~mask).all(), "the behaviour changed"
    else:
        assert set(shares.values()) == {0.083}, "the behaviour changed"
PY
