#!/bin/sh
# tifffile 2026.3.3: imwrite of a stack of grey slices, (slices, height, width), makes one page for each; of three or
# four slices it makes a single page of red, green and blue, with an alpha for the fourth. A viewer shows one coloured
# picture, Pillow 13.0.0 counts one page, and a program that loops over pages sees one. Stacks of 2 and 5 slices become
# pages, so that one set of scans is in two layouts. tifffile's own imread gives back the same array in each case, so
# that a test by reading back passes. photometric="minisblack" writes pages. Guess before it was run: pages of grey,
# since nothing in the call says colour.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q tifffile==2026.3.3 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import tifffile
from PIL import Image

assert version("tifffile") == "2026.3.3"
for slices in (2, 3, 4, 5):
    for dtype in ("uint8", "uint16", "float32"):
        stack = np.zeros((slices, 20, 30), dtype)
        tifffile.imwrite("stack.tif", stack)
        with tifffile.TiffFile("stack.tif") as file:
            pages, kind = len(file.pages), file.pages[0].photometric.name
        print(f"{slices} slices of {dtype}: {pages} pages of {kind}")
        colours = slices in (3, 4)
        assert (pages, kind) == ((1, "RGB") if colours else (slices, "MINISBLACK")), "the behaviour changed"
        assert tifffile.imread("stack.tif").shape == stack.shape
        if dtype == "uint8":
            with Image.open("stack.tif") as picture:
                assert picture.n_frames == pages, "the behaviour changed"
        tifffile.imwrite("grey.tif", stack, photometric="minisblack")
        with tifffile.TiffFile("grey.tif") as file:
            assert len(file.pages) == slices
PY
