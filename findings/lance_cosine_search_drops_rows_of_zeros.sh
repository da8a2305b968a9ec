#!/bin/sh
# pylance 14.0.2 (Lance): a search with metric="cosine" leaves out, without a word, each row whose vector is all zeros or
# holds NaN, and a query of zeros finds nothing at all: k=4 of 4 rows gives two rows and none. With "l2" and "dot" the
# zero row is there and only the NaN row is left out. usearch 2.26.6 gives every row, the zero one at distance 1. A row
# whose picture was absent (zeros by convention) or overflowed in half precision is not ranked last: it is not in the
# result, so counting ranks from what came back (recall, median rank) shifts or fails for these rows.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pylance==14.0.2 usearch==2.26.6 numpy==2.4.6
cd "$work"
venv/bin/python -W error - <<'PY'
from importlib.metadata import version

import lance
import numpy as np
import pyarrow
from usearch.index import Index

assert (version("pylance"), version("usearch")) == ("14.0.2", "2.26.6")
ones, zeros = np.ones(8, "float32"), np.zeros(8, "float32")
stored = np.stack([zeros, ones, -ones, np.full(8, np.nan, "float32")])
vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(stored.reshape(-1)), 8)
table = lance.write_dataset(pyarrow.table({"id": pyarrow.array(range(4)), "vector": vectors}), "rows.lance")
expected = {("cosine", "ones"): [1, 2], ("cosine", "zeros"): []}
for metric in ("cosine", "l2", "dot"):
    for name, query in (("ones", ones), ("zeros", zeros)):
        found = table.to_table(nearest={"column": "vector", "q": query, "k": 4, "metric": metric})["id"].to_pylist()
        print(f"lance, {metric}, query of {name}: rows {found} of [0 (zeros), 1, 2, 3 (NaN)]")
        assert sorted(found) == expected.get((metric, name), [0, 1, 2]), "the behaviour changed"
index = Index(ndim=8, metric="cos")
index.add(np.arange(3), stored[:3])
for name, query in (("ones", ones), ("zeros", zeros)):
    found = index.search(query, 3, exact=True)
    print(f"usearch, cos, query of {name}: rows {found.keys.tolist()}, distances {found.distances.round(2).tolist()}")
    assert sorted(found.keys.tolist()) == [0, 1, 2], "the behaviour changed"
PY
