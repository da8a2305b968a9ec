#!/bin/sh
# datasets 5.2.0: with_format("numpy") gives a number of one row in its own type and the column of many rows in
# another: a float64 is float64 in ds[0] and float32 in ds[:], a uint8 is uint8 and int64. So the time 1,700,000,001 s
# is 1,700,000,000 when it is read in batches, and two times a second apart are one. With "torch" floats are float32 in
# both. Whole numbers with one None in their column become float32 as well, where int64 is kept without it: ids above
# 16,777,216 come back as those of others. Nothing is said. A dtype in with_format is the way out. Guess before it was
# run: float64 stays float64, in rows and columns.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q datasets==5.2.0 torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import datasets
import numpy as np

assert version("datasets") == "5.2.0"
rows = datasets.Dataset.from_dict({
    "time": [1_700_000_000.0, 1_700_000_001.0],
    "id": [16_777_216, 16_777_217],
    "id or none": [16_777_217, None],
    "byte": np.array([1, 255], "uint8"),
})
for kind in ("numpy", "torch"):
    told = rows.with_format(kind)
    for name in rows.column_names:
        one, many = told[0][name], told[:][name]
        print(f"{kind}, {name}: {one.dtype} in a row, {many.dtype} in a column, {many.tolist()}")
arrays = rows.with_format("numpy")
assert arrays[0]["time"].dtype == np.float64 and arrays[:]["time"].dtype == np.float32, "the behaviour changed"
assert arrays[0]["byte"].dtype == np.uint8 and arrays[:]["byte"].dtype == np.int64, "the behaviour changed"
assert arrays[:]["time"][0] == arrays[:]["time"][1] and arrays[1]["time"] == 1_700_000_001, "the behaviour changed"
for kind in ("numpy", "torch"):
    found = rows.with_format(kind)[:]
    assert found["id"].tolist() == [16_777_216, 16_777_217]
    assert found["id or none"].tolist()[0] == 16_777_216, "the behaviour changed"
kept = rows.with_format("numpy", dtype=np.float64)[:]
assert kept["time"].tolist() == [1_700_000_000, 1_700_000_001]
PY
