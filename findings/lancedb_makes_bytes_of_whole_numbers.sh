#!/bin/sh
# lancedb 0.40.0: a table whose first rows have vectors of whole numbers between 0 and 255, as [1, 0] or a one-hot row, has
# a vector column of uint8. Embeddings that are added later are cut down to whole numbers, [.6, .8] to [0, 0], and so is
# the query of a search: of all that was added every row is at distance 0. Nothing is raised, only for numbers below 0 or
# above 255. One float or one negative number in the first rows makes the column float32. A float that is added to a column
# of integers is cut in the same way (9.7 is 9). Guess before it was run: float32, as for every list of floats.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q lancedb==0.40.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys
from importlib.metadata import version

import lancedb

assert version("lancedb") == "0.40.0"
base = lancedb.connect("base")


def kind(rows, name):
    table = base.create_table(name, data=[{"vector": row} for row in rows])
    return table, str(table.schema.field("vector").type.value_type)


table, named = kind([[1, 0], [0, 1]], "whole")
table.add([{"vector": [0.6, 0.8]}, {"vector": [0.8, 0.6]}])
kept = [row["vector"] for row in table.to_arrow().to_pylist()]
print("first rows [1, 0] and [0, 1]:", named, "and after [.6, .8] and [.8, .6] were added:", kept)
assert (named, kept) == ("uint8", [[1, 0], [0, 1], [0, 0], [0, 0]]), "the behaviour changed"
found = [(row["vector"], row["_distance"]) for row in table.search([0.6, 0.8]).to_list()]
print("search for [.6, .8]:", found)
assert [distance for _, distance in found[:2]] == [0, 0], "the behaviour changed"
for rows in ([[1.0, 0.0]], [[-1, 0]], [[1, 0], [0.6, 0.8]]):
    table, named = kind(rows, f"other{len(rows)}{rows[0][0]}")
    print("first rows", rows, "give", named)
    assert named == "float"
table = base.create_table("numbers", data=[{"number": 1}])
table.add([{"number": 9.7}])
print("9.7 among integers:", table.to_arrow()["number"].to_pylist())
assert table.to_arrow()["number"].to_pylist() == [1, 9], "the behaviour changed"
sys.stdout.flush()
PY
