#!/bin/sh
# usearch 2.26.6: an index with dtype="i8" brings each vector to length one before it rounds it, for every metric. So
# metric="ip" and metric="l2sq" rank by cosine: of 50 queries against 200 vectors of unequal length the nearest by "ip"
# is that of cosine in 48 and that of the inner product in 12 (by chance of the data the two agree in those 12). The
# distances are those of the rounded unit vectors (-6939 for an inner product of 46). No error, no warning; "f16",
# "bf16" and "e4m3" rank by the metric that was asked for. Whoever stores embeddings whose length means something
# (maximum inner product search, a tower without normalised outputs) in int8 searches for something else.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q usearch==2.26.6 numpy==2.4.6
cd "$work"
venv/bin/python -W error - <<'PY'
from importlib.metadata import version

import numpy as np
from usearch.index import Index

assert version("usearch") == "2.26.6", version("usearch")
draw = np.random.default_rng(0)
stored = draw.normal(size=(200, 32)) * draw.uniform(0.2, 5, size=(200, 1))
stored, queries = stored.astype("float32"), draw.normal(size=(50, 32)).astype("float32")
unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
nearest = {
    "ip": np.argmax(queries @ stored.T, axis=1),
    "cos": np.argmax(queries @ unit.T, axis=1),
    "l2sq": np.argmin(((queries[:, None] - stored) ** 2).sum(-1), axis=1),
}
print("dtype metric  equal to the nearest by", *nearest)
for dtype in ("f32", "f16", "bf16", "e4m3", "i8"):
    for metric in ("ip", "l2sq"):
        index = Index(ndim=32, metric=metric, dtype=dtype)
        index.add(np.arange(200), stored)
        found = index.search(queries, 1, exact=True).keys[:, 0]
        equal = {name: float((found == keys).mean()) for name, keys in nearest.items()}
        print(f"{dtype:6}{metric:8}", equal)
        served = "cos" if dtype == "i8" else metric
        assert equal[served] >= 0.85, "the behaviour changed"
        assert all(share < 0.5 for name, share in equal.items() if name != served), "the behaviour changed"
PY
