#!/bin/sh
# imageio 2.38.1 (Pillow 13.0.0): of frames in a GIF that are equal to the one before only the first is written, with a
# longer time: 3 frames of which two are alike are 2 when they are read, and ten of a still scene one. So a frame
# number, a list of labels for each frame or a mask film beside it no longer fit, though imread gives an array of
# frames without a word. The time of the file as a whole is right. Animated PNG through the same call keeps fewer
# frames as well. What one would expect: as many frames as were written.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q imageio==2.38.1 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import imageio.v3 as imageio
import numpy as np
from PIL import Image

assert (version("imageio"), version("pillow")) == ("2.38.1", "13.0.0")
one, other = np.zeros((16, 16, 3), "uint8"), np.full((16, 16, 3), 200, "uint8")
films = {"all different": [one, other, one], "two alike": [one, one, other], "a still scene": [one] * 10}
found = {}
for name, frames in films.items():
    for ending in ("gif", "png"):
        imageio.imwrite(f"film.{ending}", np.stack(frames), duration=100)
        read = imageio.imread(f"film.{ending}", index=None if ending == "png" else ...)
        with Image.open(f"film.{ending}") as picture:
            found[name, ending] = getattr(picture, "n_frames", 1)
        print(f"{name}: {len(frames)} frames written as {ending}, {found[name, ending]} in the file, read as {read.shape}")
        if ending == "gif":
            assert read.size == found[name, ending] * one.size
assert [found[name, "gif"] for name in films] == [3, 2, 1], "the behaviour changed"
assert [found[name, "png"] for name in films] == [3, 2, 1], "the behaviour changed"
PY
