#!/bin/sh
# scikit-image 0.26.0: io.imread of a TIFF of grey pages (slices of a scan, frames of a microscope) is an array of
# (pages, height, width), but with three or four pages it is one of (height, width, pages): the pages are taken for
# colours, and what goes through them by the first axis goes through rows of pixels. tifffile 2026.3.3, which reads the
# file for it, keeps the pages first. Of one set of stacks those of 3 and 4 slices are other than those of 2 and 5.
# Guess before it was run: (3, height, width) for three pages.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q scikit-image==0.26.0 tifffile==2026.3.3 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import tifffile
from skimage import io

assert (version("scikit-image"), version("tifffile")) == ("0.26.0", "2026.3.3")
for pages in (2, 3, 4, 5, 8):
    stack = np.zeros((pages, 20, 30), "uint8") + np.arange(pages, dtype="uint8")[:, None, None]
    tifffile.imwrite("stack.tif", stack, photometric="minisblack")
    assert len(tifffile.TiffFile("stack.tif").pages) == pages
    read = io.imread("stack.tif")
    print(f"{pages} pages: scikit-image {read.shape}, tifffile {tifffile.imread('stack.tif').shape}")
    assert tifffile.imread("stack.tif").shape == (pages, 20, 30)
    turned = pages in (3, 4)
    assert read.shape == ((20, 30, pages) if turned else (pages, 20, 30)), "the behaviour changed"
    assert len(np.unique(read[0])) == (pages if turned else 1), "the behaviour changed"
PY
