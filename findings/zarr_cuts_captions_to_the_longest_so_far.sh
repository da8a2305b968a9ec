#!/bin/sh
# zarr 3.1.6: create_array(data=) of an array of captions makes one whose captions are never longer than the longest of those.
# What is appended or put in later is cut there, inside a word, and nothing is said: "a much longer caption" after
# "a dog" and "a cat" becomes "a muc". An array made with dtype=str keeps every caption.
# Guess before it was run: strings of any length.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q zarr==3.1.6 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import zarr

assert version("zarr") == "3.1.6"
first, later = ["a dog", "a cat"], "a much longer caption"
by_data = zarr.create_array(store={}, data=np.array(first))
by_type = zarr.create_array(store={}, shape=(2,), dtype=str)
by_type[:] = first
for name, array in (("data=", by_data), ("dtype=str", by_type)):
    array.append(np.array([later]))
    array[0] = later
    print(f"made with {name}: {array[:].tolist()}")
assert by_data[:].tolist() == ["a muc", "a cat", "a muc"], "the behaviour changed"
assert by_type[:].tolist() == [later, "a cat", later]
PY
