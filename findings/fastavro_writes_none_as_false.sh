#!/bin/sh
# fastavro 1.13.1: a field of kind boolean takes anything: None is written as false, the text "no" as true. A picture
# whose label is unknown comes back as one that was labelled false. Fields of int take 1.7 as 1. Texts and doubles do
# raise for None, and so does a record in which the field is not there, so that a schema without null looks as if it kept
# such rows out. With validator=True, which is off unless it is asked for, all of it raises.
# Guess before it was run: an error for None where the schema has no null.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q fastavro==1.13.1
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import io
from importlib.metadata import version

import fastavro

assert version("fastavro") == "1.13.1"


def back(kind, record, **settings):
    schema = fastavro.parse_schema({"type": "record", "name": "picture", "fields": [{"name": "label", "type": kind}]})
    file = io.BytesIO()
    try:
        fastavro.writer(file, schema, [record], **settings)
    except Exception as fault:
        return type(fault).__name__
    file.seek(0)
    return list(fastavro.reader(file))[0]["label"]


CASES = (
    ("boolean", {"label": None}), ("boolean", {"label": "no"}), ("int", {"label": 1.7}),
    ("boolean", {}), ("string", {"label": None}), ("double", {"label": None}),
)
found = {}
for kind, record in CASES:
    found[kind, str(record)] = back(kind, record)
    checked = back(kind, record, validator=True)
    print(f"{kind}, {record}: {found[kind, str(record)]}, with validator=True {checked}")
    assert checked == "ValidationError"
assert list(found.values()) == [False, True, 1, "ValueError", "TypeError", "TypeError"], "the behaviour changed"
PY
