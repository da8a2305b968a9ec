#!/bin/sh
# pillow-jxl-plugin 1.3.8: save("x.jxl") of a picture that was opened from a JPEG file stores that file (rebuilt without
# loss) and not the picture: what was done to it in place, by drawing on it (a face blackened out), by paste() or
# thumbnail(), is gone, and the picture has its old size. So it is with quality=50 and with lossless=True as well. A
# warning tells of the "JPEG reconstruction", none that the picture differs. lossless_jpeg=False or picture.copy() before
# keep the edits; Pillow's own WebP and AVIF writers always do. Guess before it was run: what is saved is the picture as it
# is, and the JPEG data only where it is untouched.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pillow-jxl-plugin==1.3.8 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import pillow_jxl  # noqa: F401
from PIL import Image, ImageDraw

assert version("pillow-jxl-plugin") == "1.3.8"
across, down = np.meshgrid(np.arange(64) * 3, np.arange(48) * 4)
Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8)).save("face.jpg")


def drawn(picture):
    ImageDraw.Draw(picture).rectangle([5, 5, 60, 40], fill=(0, 0, 0))


def small(picture):
    picture.thumbnail((16, 16))


def saved(edit, copied=False, name="out.jxl", **settings):
    picture = Image.open("face.jpg")
    edit(picture)
    (picture.copy() if copied else picture).save(name, **settings)
    back = Image.open(name)
    if back.size != picture.size:
        answer = f"the old picture of {back.size}, not that of {picture.size}"
    else:
        off = np.abs(np.asarray(back.convert("RGB")).astype(int) - np.asarray(picture)).mean()
        answer = "as edited" if off < 8 else "the old picture"
    print(f"{edit.__name__}, {name}, {settings}{', copied' * copied}: {answer}")
    return answer == "as edited"


for edit in (drawn, small):
    for settings in ({}, {"quality": 50}, {"lossless": True}):
        assert not saved(edit, **settings), "the behaviour changed"
    assert saved(edit, lossless_jpeg=False)
    assert saved(edit, copied=True)
    assert saved(edit, name="out.webp")
PY
