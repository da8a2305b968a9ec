#!/bin/sh
# polars 2.1.0: DataFrame of a list of dicts takes the types of its columns from the first hundred rows. A column that
# holds whole numbers there keeps nothing but whole numbers: a score of .6 in row 101 becomes 0, an embedding [.6, .8]
# after a hundred rows like [1, 0] becomes [0, 0]. Nothing is raised, though strict=True, which promises an error for data
# that does not match, is the default; a text in the same place does raise, and so does Series([1, .6]). The same rows
# with .6 among the first hundred, or with infer_schema_length=None, are right.
# Guess before it was run: an error that names the row, or a column of floats.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q polars==2.1.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import polars

assert version("polars") == "2.1.0"


def last(first, then, rows=100, **settings):
    frame = polars.DataFrame([{"value": first}] * rows + [{"value": then}], **settings)
    print(f"{rows} rows of {first}, then {then} {settings or ''}: {frame.schema['value']}, last row {frame['value'][-1]}")
    return frame["value"].to_list()[-1]


assert last(1, 0.6) == 0, "the behaviour changed"
assert last(1, 0.6, strict=True) == 0, "the behaviour changed"
assert last([1, 0], [0.6, 0.8]) == [0, 0], "the behaviour changed"
assert last(1, 0.6, rows=99) == 0.6
assert last(1, 0.6, infer_schema_length=None) == 0.6
for make in (lambda: last(1, "a dog"), lambda: polars.Series([1, 0.6])):
    try:
        make()
    except (TypeError, polars.exceptions.PolarsError) as fault:
        print(type(fault).__name__, str(fault).split("\n")[0])
    else:
        raise AssertionError("the behaviour changed")
PY
