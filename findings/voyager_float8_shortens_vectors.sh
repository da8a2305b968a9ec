#!/bin/sh
# voyager 2.2.3: StorageDataType.Float8 cuts each number to a multiple of 1/127 towards zero instead of rounding it, and
# does not divide by the stored length: a vector of 768 numbers comes out 8 % short and is at cosine "distance" .14 to .17
# of itself (.04 to .06 with 64 numbers), where E4M3 is within .03 and Float32 within 1e-6. The order of the neighbours
# hardly changes, but "distance < .1 is a duplicate" finds no duplicate at all. Guess before it was run: within .01.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q voyager==2.2.3 numpy==2.4.6
"$work/venv/bin/python" -W error - <<'PY'
from importlib.metadata import version

import numpy as np
from voyager import Index, Space, StorageDataType

assert version("voyager") == "2.2.3"
rng = np.random.default_rng(0)
for width in (64, 768):
    rows = rng.normal(size=(100, width)).astype("float32")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for kind in (StorageDataType.Float32, StorageDataType.E4M3, StorageDataType.Float8):
        to_itself, lengths = [], []
        for row in rows:  # an index of one row: nothing but the row itself can be found
            index = Index(Space.Cosine, width, storage_data_type=kind)
            index.add_item(row)
            to_itself.append(index.query(row, k=1)[1][0])
            lengths.append(np.linalg.norm(index.get_vector(0)))
        print(f"{kind.name} x {width}: distance to itself {min(to_itself):.4f} to {max(to_itself):.4f}, "
              f"stored length {np.mean(lengths):.3f}")
        far = {64: 0.03, 768: 0.12}[width]
        assert (min(to_itself) > far) == (kind is StorageDataType.Float8), "the behaviour changed"
PY
