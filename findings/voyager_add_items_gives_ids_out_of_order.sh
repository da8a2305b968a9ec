#!/bin/sh
# voyager 2.2.3: Index.add_items(vectors) without ids gives each row the id that its thread drew, not its row number: with
# several threads (the default is one per core) some runs number rows out of order, other rows in each run. The returned
# list has the right ids, so a program that takes an id for a row number names wrong pictures now and then, without a
# word. With num_threads=1, or ids=range(n), they are in order. Guess before it was run: new ids are 0, 1, 2, … by row.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q voyager==2.2.3 numpy==2.4.6
"$work/venv/bin/python" -W error - <<'PY'
from importlib.metadata import version

import numpy as np
from voyager import Index, Space

assert version("voyager") == "2.2.3"
rows = np.random.default_rng(0).normal(size=(500, 256)).astype("float32")
in_order = np.arange(len(rows))


def added(**options) -> tuple[np.ndarray, Index]:
    index = Index(Space.Euclidean, 256)
    return np.array(index.add_items(rows, **options)), index


for options in ({"num_threads": 1}, {"ids": in_order.tolist(), "num_threads": 4}):
    assert all((added(**options)[0] == in_order).all() for _ in range(20))
for tries in range(1, 501):
    ids, index = added(num_threads=4)
    assert np.array_equal(index.get_vectors(ids), rows)  # what is returned is right
    if (ids != in_order).any():
        break
else:
    raise SystemExit("500 runs in order: the behaviour changed")
print(f"4 threads: in run {tries}, {(ids != in_order).sum()} of {len(rows)} rows have another id than their row number")
print("1 thread, or ids given: 20 of 20 runs in order")
PY
