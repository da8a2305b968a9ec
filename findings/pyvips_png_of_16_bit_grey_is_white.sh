#!/bin/sh
# pyvips 3.2.0 (libvips 8.18.7): a PNG of a grey picture of uint16, as depth maps and scans are, has 8 bits, and
# everything above 255 is 255: of depths from 0 to 65,535 nearly all are white. The same numbers in three channels are
# written with 16 bits. A JPEG of the grey one is divided by 256, so that the two formats are of different brightness, and
# a TIFF is right. new_from_array calls one channel "b-w" (8 bits) whatever its numbers are and three of uint16 "srgb";
# copy(interpretation= "grey16") before the saving gives 16 bits.
# Guess before it was run: a PNG of 16 bits, as Pillow writes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pyvips==3.2.0 pyvips-binary==8.18.7 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import pyvips
from PIL import Image

assert (version("pyvips"), version("pyvips-binary")) == ("3.2.0", "8.18.7")
depth = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
grey = pyvips.Image.new_from_array(depth)


def saved(picture, name):
    picture.write_to_file(name)
    return pyvips.Image.new_from_file(name).numpy()


read = {
    "PNG": saved(grey, "grey.png"),
    "JPEG": saved(grey, "grey.jpg"),
    "TIFF": saved(grey, "grey.tif"),
    "PNG of three channels": saved(pyvips.Image.new_from_array(np.dstack([depth] * 3)), "three.png"),
    "PNG of grey16": saved(grey.copy(interpretation="grey16"), "grey16.png"),
}
for name, pixels in read.items():
    print(f"{name}: {pixels.dtype}, smallest to largest {pixels.min()} to {pixels.max()}, mean {pixels.mean():.1f}")
assert (np.asarray(Image.open("grey.png")) == read["PNG"]).all()
assert read["PNG"].dtype == np.uint8 and (read["PNG"] == np.minimum(depth, 255)).all(), "the behaviour changed"
assert read["JPEG"].dtype == np.uint8 and abs(read["JPEG"].mean() - 127.5) < 3, "the behaviour changed"
for name in ("TIFF", "PNG of grey16"):
    assert (read[name] == depth).all(), "the behaviour changed"
assert (read["PNG of three channels"][..., 0] == depth).all(), "the behaviour changed"
PY
