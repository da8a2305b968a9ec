#!/bin/sh
# pillow-heif 1.8.1 (Pillow 13.0.0): a JPEG of a phone held upright (EXIF orientation 6) that is saved as HEIC is
# upright by save("x.heic") and by save(exif=) with the bytes of the tags. With the tags as Pillow's object,
# exif=picture.getexif(), it lies on its side, and the file says orientation 1, so that nothing can turn it any more.
# By from_pillow(picture).save() it is turned twice: the picture is turned, keeps its tag and is turned again, so that
# its top is at the right. Boxes and captions belong to another picture in two of four ways, and nothing is said. Guess
# before it was run: the orientation is applied once, by whatever way it is written.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pillow-heif==1.8.1 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import pillow_heif
from PIL import Image, ImageOps

assert (version("pillow-heif"), version("pillow")) == ("1.8.1", "13.0.0")
pillow_heif.register_heif_opener()
lying = np.zeros((48, 64, 3), np.uint8)
lying[:, :32] = (255, 0, 0)  # red at the left as stored, at the top as it is to be shown
orientation = Image.Exif()
orientation[0x0112] = 6
Image.fromarray(lying).save("photo.jpg", exif=orientation, quality=95)


def seen(name):
    picture = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    pixels = np.asarray(picture)[..., 0] > 128
    halves = {"top": pixels[:8], "left": pixels[:, :8], "right": pixels[:, -8:], "bottom": pixels[-8:]}
    return next(side for side, part in halves.items() if part.mean() > 0.9)


assert seen("photo.jpg") == "top"
Image.open("photo.jpg").save("plain.heic")
photo = Image.open("photo.jpg")
photo.save("bytes.heic", exif=photo.info["exif"])
photo = Image.open("photo.jpg")
photo.save("object.heic", exif=photo.getexif())
pillow_heif.from_pillow(Image.open("photo.jpg")).save("from_pillow.heic")
found = {name: seen(f"{name}.heic") for name in ("plain", "bytes", "object", "from_pillow")}
tags = {name: Image.open(f"{name}.heic").getexif().get(0x0112) for name in found}
print("red, which belongs at the top, is at the", found, "with orientations", tags)
assert found == {"plain": "top", "bytes": "top", "object": "left", "from_pillow": "right"}, "the behaviour changed"
assert set(tags.values()) == {1}
PY
