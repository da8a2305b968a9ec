#!/bin/sh
# img2dataset 1.47.0: the pictures that it resizes and writes anew are stored as the pixels lie in the file, and the EXIF
# orientation is neither applied nor kept: a photo from a phone held upright lies on its side in the data set for good, and
# nothing in the new file tells. Width and height in its tables are those of the lying picture. A caption of "a man
# standing" belongs to a man lying down, in every such photo of a crawl. Pillow's exif_transpose turns the same file
# upright. Guess before it was run: upright, as OpenCV's imread gives it.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q albumentations==1.4.24 albucore==0.0.23 opencv-python-headless==4.13.0.92 numpy==2.4.6 pillow==13.0.0
"$work/venv/bin/pip" --disable-pip-version-check install -q --no-deps img2dataset==1.47.0
"$work/venv/bin/python" -W ignore - <<'PY'
import importlib.util
import io
import os
from importlib.metadata import distribution

import numpy as np
from PIL import Image, ImageOps

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
package = distribution("img2dataset")  # without its dependencies: its resizer needs none of the others
assert package.version == "1.47.0"
where = importlib.util.spec_from_file_location("resizer", package.locate_file("img2dataset/resizer.py"))
resizer = importlib.util.module_from_spec(where)
where.loader.exec_module(resizer)
lying = np.zeros((48, 64, 3), np.uint8)
lying[:, :32] = (255, 0, 0)  # red at the left as stored, at the top as it is to be shown
orientation = Image.Exif()
orientation[0x0112] = 6
photo = io.BytesIO()
Image.fromarray(lying).save(photo, "JPEG", exif=orientation, quality=95)
shown = ImageOps.exif_transpose(Image.open(io.BytesIO(photo.getvalue())))
print("the photo as it is shown:", shown.size, "pixel at the top right", shown.getpixel((40, 5)))
assert shown.size == (48, 64) and shown.getpixel((40, 5))[0] > 200
for mode in ("keep_ratio", "center_crop", "border", "no"):
    make = resizer.Resizer(image_size=32, resize_mode=mode, resize_only_if_bigger=False)
    data, width, height, *_, fault = make(io.BytesIO(photo.getvalue()))
    assert fault is None
    stored = Image.open(io.BytesIO(data)).convert("RGB")
    right, left = (stored.getpixel((at * (stored.width - 1), stored.height // 2))[0] for at in (1, 0))
    print(f"{mode}: {stored.size}, orientation {dict(stored.getexif())}, red left {left} and right {right}")
    assert left > 200 > 100 > right and not stored.getexif(), "the behaviour changed"
    assert stored.width > stored.height or mode in ("center_crop", "border"), "the behaviour changed"
PY
