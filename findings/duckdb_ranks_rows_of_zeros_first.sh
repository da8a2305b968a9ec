#!/bin/sh
# duckdb 2.0.1: ORDER BY array_cosine_similarity(...) DESC puts rows whose vector is all zeros first, before a perfect match:
# their similarity is NaN, and NaN sorts as the largest number. So a picture without an embedding (zeros by convention) is
# the best answer to every question, and LIMIT 1 gives nothing else. By array_cosine_distance, ascending, it is last;
# NULLS LAST does not help. Guess before it was run: NULL for such a row, which comes last.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q duckdb==2.0.1
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import duckdb

assert version("duckdb") == "2.0.1"
ROWS = "(VALUES ('equal', [1, 0]), ('no picture', [0, 0]), ('opposite', [-1, 0])) AS rows(name, vector)"
orders = {}
for measure, order in (("similarity", "DESC"), ("similarity", "DESC NULLS LAST"), ("distance", "ASC")):
    told = f"array_cosine_{measure}(vector::FLOAT[2], [1, 0]::FLOAT[2])"
    rows = duckdb.sql(f"SELECT name, {told} FROM {ROWS} ORDER BY {told} {order}").fetchall()
    orders[measure, order] = [name for name, _ in rows]
    print(f"by {measure} {order}: {rows}")
assert orders["similarity", "DESC"] == orders["similarity", "DESC NULLS LAST"], "the behaviour changed"
assert orders["similarity", "DESC"] == ["no picture", "equal", "opposite"], "the behaviour changed"
assert orders["distance", "ASC"] == ["equal", "opposite", "no picture"]
PY
