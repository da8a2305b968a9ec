#!/bin/sh
# mosaicml-streaming 0.13.0: a column of kind "ndarray" writes the bytes of an array as they lie in memory and the name
# of its type without the order of the bytes: a big-endian array, as TIFF, FITS and DICOM readers hand out, comes back
# in the right shape and type with other numbers, 1 as 256 and 1.0 as 4.6e-41. Nothing is raised; a column that names
# its type ("ndarray:uint16") refuses the same array. Columns of single numbers of a fixed size (uint8, int16, int64)
# cut floats, 1.7 to 1, where kind "int" refuses them. Guess before it was run: arrays and numbers come back as they
# were.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q --no-deps mosaicml-streaming==0.13.0 pillow==13.0.0 numpy==2.4.6 typing_extensions==4.16.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import importlib.util
from importlib.metadata import distribution

import numpy as np

package = distribution("mosaicml-streaming")  # without its dependencies (torch, cloud clients): its encoders need none
assert package.version == "0.13.0"
where = importlib.util.spec_from_file_location("kinds", package.locate_file("streaming/base/format/mds/encodings.py"))
kinds = importlib.util.module_from_spec(where)
where.loader.exec_module(kinds)


def through(kind, value):
    return kinds.mds_decode(kind, kinds.mds_encode(kind, value))


for dtype in ("<u2", ">u2", "<i4", ">i4", "<f4", ">f4"):
    array = np.array([[1, 2], [3, 400]], dtype)
    back = through("ndarray", array)
    try:
        named = through(f"ndarray:{array.dtype.name}", array).tolist()
    except ValueError:
        named = "refused"
    print(f"array of {dtype}: ndarray {back.dtype} {back.tolist()}, ndarray:{array.dtype.name} {named}")
    swapped = dtype[0] == ">"
    assert back.shape == array.shape and np.array_equal(back, array) == (not swapped), "the behaviour changed"
    assert named == ("refused" if swapped else array.tolist()), "the behaviour changed"
assert through("ndarray", np.array([[1, 2]], ">u2")).tolist() == [[256, 512]]
for kind in ("uint8", "int16", "int64"):
    print(f"{kind}: 1.7 is read as {through(kind, 1.7)}")
    assert through(kind, 1.7) == 1, "the behaviour changed"
try:
    kinds.mds_encode("int", 1.7)
except AttributeError:
    print("int refuses 1.7")
else:
    raise AssertionError("the behaviour changed")
PY
