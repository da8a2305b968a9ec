#!/bin/sh
# OpenCV 5.0.0: imread turns a picture by its orientation in JPEG, PNG and WebP files. In AVIF files it does not, so that
# a photo from a phone lies on its side there and its boxes are beside their objects, and a TIFF that is to be turned by
# 90 degrees and is not square cannot be read at all: None, with an error in the log, for a file that Pillow 13.0.0 reads.
# Nothing is raised. Guess before it was run: the same picture from all five.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import cv2
import numpy as np
from PIL import Image, ImageOps

assert (version("opencv-python-headless"), version("pillow")) == ("5.0.0.93", "13.0.0")
pixels = np.zeros((40, 60, 3), np.uint8)
pixels[:20] = 200
picture = Image.fromarray(pixels)
exif = Image.Exif()
exif[274] = 6
shapes = {}
for kind in ("jpg", "png", "webp", "avif", "tif"):
    name = f"photo.{kind}"
    picture.save(name, **({"tiffinfo": {274: 6}} if kind == "tif" else {"exif": exif}))
    turned = np.asarray(ImageOps.exif_transpose(Image.open(name)))
    assert turned.shape == (60, 40, 3)
    read = cv2.imread(name)
    shapes[kind] = None if read is None else read.shape[:2]
    print(f"{kind}: imread {shapes[kind]}, Pillow with exif_transpose {turned.shape[:2]}")
picture.save("photo.tif")
assert cv2.imread("photo.tif").shape[:2] == (40, 60)
assert [shapes[kind] for kind in ("jpg", "png", "webp")] == [(60, 40)] * 3
assert shapes["avif"] == (40, 60) and shapes["tif"] is None, "the behaviour changed"
PY
