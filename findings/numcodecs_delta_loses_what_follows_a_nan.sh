#!/bin/sh
# numcodecs 0.16.6: Delta, the filter for time axes and other slowly changing numbers in Zarr and N5 arrays, keeps
# differences of floats and adds them up when it reads: one NaN makes NaN of every number after it, and a large number
# rounds those that follow: 1e8, 1, 2, 3 in float32 come back as 1e8, 0, 1, 2. A sensor with one gap, or timestamps
# with one missing, lose the rest of the chunk for good, and nothing is said when it is written. The array that goes in
# is still whole, so that only reading back shows it. Whole numbers come back right. What one would expect: every
# number as it was, since the other filters of the library that round say so in a setting.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q numcodecs==0.16.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from numcodecs import Delta

assert version("numcodecs") == "0.16.6"


def back(numbers, dtype):
    codec = Delta(dtype=dtype)
    return codec.decode(codec.encode(np.array(numbers, dtype))).tolist()


gap, large, whole = back([1, np.nan, 3, 4], "f8"), back([1e8, 1, 2, 3], "f4"), back([200, 3, 255, 0], "u1")
print(f"1, NaN, 3, 4 is read as {gap}; 1e8, 1, 2, 3 as {large}; 200, 3, 255, 0 in bytes as {whole}")
assert gap[0] == 1 and np.isnan(gap[1:]).all(), "the behaviour changed"
assert large == [1e8, 0, 1, 2], "the behaviour changed"
assert whole == [200, 3, 255, 0]
PY
