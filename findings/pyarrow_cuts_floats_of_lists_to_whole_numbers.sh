#!/bin/sh
# pyarrow 26.0.1: floats of a Python list that go into a column of whole numbers are cut off without a word: array([.6,
# 1.7], int32()) is [0, 1], an embedding [.6, .8] in a column of lists of int8 is [0, 0], and Table.from_pylist with a
# schema does so too. The same floats from a NumPy array, or by cast(), raise ArrowInvalid ("was truncated"), as do NaN
# and what is too large from a list, so that whoever has seen that error trusts the schema to find a wrong type. A score
# or a soft label that is written by a schema with int64 in it is 0. Guess before it was run: ArrowInvalid for both.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pyarrow==26.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import pyarrow as pa

assert version("pyarrow") == "26.0.1"
schema = pa.schema([("label", pa.int64()), ("vector", pa.list_(pa.int8()))])
CALLS = {
    "list into int32": lambda: pa.array([0.6, 1.7], pa.int32()).to_pylist(),
    "list of np.float32 into int32": lambda: pa.array([np.float32(0.6)], pa.int32()).to_pylist(),
    "from_pylist": lambda: pa.Table.from_pylist([{"label": 0.9, "vector": [0.6, 0.8]}], schema=schema).to_pylist(),
    "array of NumPy into int32": lambda: pa.array(np.array([0.6, 1.7]), pa.int32()).to_pylist(),
    "cast to int32": lambda: pa.array([0.6, 1.7]).cast(pa.int32()).to_pylist(),
    "list with NaN into int32": lambda: pa.array([float("nan")], pa.int32()).to_pylist(),
    "list with 300.0 into int8": lambda: pa.array([300.0], pa.int8()).to_pylist(),
}
found = {}
for name, call in CALLS.items():
    try:
        found[name] = call()
        print(f"{name}: {found[name]}")
    except pa.ArrowInvalid as fault:
        found[name] = "ArrowInvalid"
        print(f"{name}: ArrowInvalid, {fault}")
assert list(found.values()) == [[0, 1], [0], [{"label": 0, "vector": [0, 0]}], *["ArrowInvalid"] * 4], "the behaviour changed"
PY
