#!/bin/sh
# pynndescent 0.7.0: metric="dot" brings all vectors to length 1 first, so that it gives the neighbours and the
# distances of "cosine", whatever the lengths are: the row with the largest product is not among the nearest, though
# the two metrics have two names. usearch, hnswlib and Faiss rank by the product itself under "ip". In a store where
# the length counts (popularity in a recommender, dot-product models such as DPR) other rows come first.
# metric="inner_product" ranks by the product. What one would expect: the largest product first.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pynndescent==0.7.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import pynndescent

assert version("pynndescent") == "0.7.0"
rows = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
rows *= np.random.default_rng(1).uniform(0.2, 5, (200, 1)).astype("float32")
queries = rows[:20]
unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
true = {"product": (queries @ rows.T).argmax(1), "cosine": (unit[:20] @ unit.T).argmax(1)}
share = {}
for metric in ("dot", "cosine", "inner_product"):
    index = pynndescent.NNDescent(rows, metric=metric, n_neighbors=30, random_state=0)
    found, distances = index.query(queries, k=1, epsilon=0.5)
    share[metric] = [float((found[:, 0] == best).mean()) for best in true.values()]
    print(f"{metric}: largest product first in {share[metric][0]:.2f}, largest cosine in {share[metric][1]:.2f} of queries")
assert share["dot"] == share["cosine"] and share["dot"][1] == 1 and share["dot"][0] < 0.6, "the behaviour changed"
assert share["inner_product"][0] > 0.9, "the behaviour changed"
PY
