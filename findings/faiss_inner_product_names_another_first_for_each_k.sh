#!/bin/sh
# faiss-cpu 1.15.1: IndexFlatIP gives rows of equal score backwards, so that the first of them depends on how many are asked for:
# of six equal rows the best is 0 with k=1, 2 with k=3 and 5 with k=6. Recall at 1 from a search for 10 is another number than
# from a search for 1, where pictures come twice or embeddings have collapsed, and a pair of duplicates changes places between
# pages of results. So do IndexIVFFlat and the scalar quantizers by inner product; IndexFlatL2 has 0, 1, 2 at every k.
# Guess before it was run: the lowest id first, however many rows are searched for.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q faiss-cpu==1.15.1 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import faiss
import numpy as np

assert version("faiss-cpu") == "1.15.1"
row = np.random.default_rng(0).normal(size=(1, 8)).astype(np.float32)
rows = row.repeat(6, 0)
for name, metric in (("inner product", faiss.METRIC_INNER_PRODUCT), ("L2", faiss.METRIC_L2)):
    for kind in ("Flat", "IVF1,Flat", "SQfp16"):
        index = faiss.index_factory(8, kind, metric)
        index.train(rows)
        index.add(rows)
        found = [index.search(row, k)[1][0].tolist() for k in (1, 3, 6)]
        print(f"six equal rows in {kind} by {name}, k=1, 3, 6: {found}")
        if name == "L2":
            assert found == [[0], [0, 1, 2], [0, 1, 2, 3, 4, 5]]
        else:
            assert found == [[0], [2, 1, 0], [5, 4, 3, 2, 1, 0]], "the behaviour changed"
PY
