#!/bin/sh
# deeplake 4.7.4: one infinite number in a Float32 or Float64 column ends a data set. append() takes it, commit() ends in
# "Failed to parse JSON", and after that the data set cannot be opened any more, for reading either, though rows of earlier
# commits are in it. A loss, a temperature or a score that overflowed is enough, and so is 1e39 in Float32. NaN is taken
# and read back, and so is an infinity within an embedding. Guess before it was run: stored as NaN is, or refused, with the
# rows before it safe.
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


def later(name, kind, value):
    data = deeplake.create(f"file://{name}")
    data.add_column("x", kind)
    good = np.ones(2, np.float32) if "Embedding" in name else 1.0
    data.append({"x": [good, good]})
    data.commit()
    assert len(deeplake.open_read_only(f"file://{name}")) == 2
    data = deeplake.open(f"file://{name}")
    data.append({"x": [value]})
    try:
        data.commit()
        return f"{len(deeplake.open_read_only(f'file://{name}'))} rows"
    except RuntimeError as fault:
        first = str(fault)
    del data
    try:
        return f"{first}; {len(deeplake.open_read_only(f'file://{name}'))} rows"
    except RuntimeError as fault:
        return f"{first}; cannot be opened: {fault}"


infinity = float("inf")
CASES = [
    ("Float32", deeplake.types.Float32(), infinity, True),
    ("Float32 too large", deeplake.types.Float32(), 1e39, True),
    ("Float64", deeplake.types.Float64(), -infinity, True),
    ("Float32 NaN", deeplake.types.Float32(), float("nan"), False),
    ("Embedding", deeplake.types.Embedding(2), np.float32([infinity, 1]), False),
]
for name, kind, value, ended in CASES:
    seen = later(name, kind, value)
    print(f"{name}, {value}: {seen}")
    assert ("cannot be opened" in seen) == ended, "the behaviour changed"
    assert ended or seen == "3 rows"
PY
