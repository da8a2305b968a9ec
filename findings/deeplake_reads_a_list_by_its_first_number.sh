#!/bin/sh
# deeplake 4.7.4: a list of numbers is taken for integers or for floats by its first number alone, and the others are read
# by their bits: the embedding [0.6, 1] becomes [0.6, 0.0] and [1, 0.6] [1, 4.6e18]. JSON and hand-written lists hold whole
# numbers without a point (JavaScript writes 1.0 as 1), so some rows of many are wrong, and nothing is raised. Lists of
# floats only, of integers only, and NumPy arrays are right. Guess before it was run: every number as it is, as by NumPy.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q deeplake==4.7.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import deeplake
import numpy as np

assert version("deeplake") == "4.7.4"
data = deeplake.create("file://data")
data.add_column("embedding", deeplake.types.Embedding(4))
ROWS = {
    "floats": ([0.6, 1.0, 0.0, 2.0], True),
    "integers": ([3, 1, 0, 2], True),
    "an array": (np.array([1, 0.6, 0, 2]), True),
    "a float first": ([0.6, 1, 0, 2], False),
    "an integer first": ([1, 0.6, 0.5, 2], False),
}
for name, (given, right) in ROWS.items():
    data.append({"embedding": [given]})
    back = data[len(data) - 1]["embedding"]
    print(f"{name}: {list(given)} comes back as {back.tolist()}")
    assert np.allclose(back, given) == right, "the behaviour changed"
PY
