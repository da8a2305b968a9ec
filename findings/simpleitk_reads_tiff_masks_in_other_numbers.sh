#!/bin/sh
# SimpleITK 2.5.7: a TIFF of one bit (masks, scans) comes back with four channels, red, green, blue and alpha, and a TIFF
# with a palette as uint16 with every colour 256 times as large: 200 is 51,200. The same two pictures as PNG have one
# channel of 0 and 255, and bytes. Code that was tested with PNG masks, or divides by 255, gets other shapes and values up
# to 256 for TIFF. Guess before it was run: the same arrays for the same picture in PNG and TIFF, as for grey and RGB.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q simpleitk==2.5.7 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import SimpleITK as sitk
from PIL import Image

assert (version("simpleitk"), version("pillow")) == ("2.5.7", "13.0.0")
rgb = np.zeros((8, 12, 3), np.uint8)
rgb[..., 0], rgb[:4, :, 1] = 200, 90
grey = rgb[..., 1] * 2
PICTURES = {
    "grey": Image.fromarray(grey),
    "RGB": Image.fromarray(rgb),
    "one bit": Image.fromarray(grey).convert("1"),
    "palette": Image.fromarray(rgb).quantize(4),
}
found = {}
for kind, picture in PICTURES.items():
    for name in ("a.png", "a.tif"):
        picture.save(name)
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(name))
        found[kind, name] = pixels.shape[2:], str(pixels.dtype), int(pixels.max())
        print(f"{kind} as {name}: {pixels.shape}, {pixels.dtype}, up to {pixels.max()}")
assert found["grey", "a.png"] == found["grey", "a.tif"] and found["RGB", "a.png"] == found["RGB", "a.tif"]
assert found["one bit", "a.png"] == ((), "uint8", 255)
assert found["one bit", "a.tif"] == ((4,), "uint8", 255), "the behaviour changed"
assert found["palette", "a.png"] == ((3,), "uint8", 200)
assert found["palette", "a.tif"] == ((3,), "uint16", 51200), "the behaviour changed"
PY
