#!/bin/sh
# blosc2 4.14.1: an array of big-endian numbers, as TIFF, FITS and DICOM readers hand out, is kept and read back right; but
# sum, mean and what is worked out with it (x + 1, x > 5, sin) take the bytes in the other order: of 0, 1, ... 299 in >f4
# the sum is 2.7e-37 and not 44,850, none is above 5, and in >i4 the sum is 1.4e10. Nothing is raised.
# astype(x.dtype.newbyteorder("=")) before asarray is the way out. Guess before it was run: as NumPy.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q blosc2==4.14.1 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import blosc2
import numpy as np

assert version("blosc2") == "4.14.1"
for kind in (">f4", "<f4", ">i4", "<i4"):
    numbers = np.arange(300).astype(kind)
    kept = blosc2.asarray(numbers)
    assert (kept[:] == numbers).all()
    seen = {"sum": float(kept.sum()), "mean": float(kept.mean()), "above 5": int((kept > 5)[:].sum())}
    wanted = {"sum": 44850.0, "mean": 149.5, "above 5": 294}
    print(f"{kind}: {seen}, by NumPy {wanted}; x + 1 begins with {(kept + 1)[:3].tolist()}")
    right = {name: abs(value - wanted[name]) < 0.1 for name, value in seen.items()}
    assert all(right.values()) == (kind[0] == "<"), "the behaviour changed"
    assert not right["sum"] or kind[0] == "<", "the behaviour changed"
PY
