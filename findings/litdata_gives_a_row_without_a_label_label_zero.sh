#!/bin/sh
# litdata 0.2.76: the fields and types of the first row are those of all. A later row that has no "label", or label None, is
# read back with label 0, without a caption with "": an unlabelled picture is one of class 0, and nothing is said. A field
# that only later rows have is dropped. With the row without a label first, None comes back as None.
# Guess before it was run: None, or an error when it is written.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 litdata==0.2.76 numpy==2.4.6
cd "$work"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

from litdata import StreamingDataset
from litdata.streaming.writer import BinaryWriter

assert version("litdata") == "0.2.76"


def written_and_read(rows, folder):
    writer = BinaryWriter(folder, chunk_size=1000)
    for number, row in enumerate(rows):
        writer[number] = row
    writer.done()
    writer.merge()
    read = StreamingDataset(folder, shuffle=False)
    return [read[number] for number in range(len(read))]


whole = {"picture": "1.jpg", "label": 7, "caption": "a dog"}
CASES = {
    "no label": ([whole, {"picture": "2.jpg", "caption": "a cat"}], {"picture": "2.jpg", "label": 0, "caption": "a cat"}),
    "label None": ([whole, {**whole, "label": None}], {**whole, "label": 0}),
    "caption None": ([whole, {**whole, "caption": None}], {**whole, "caption": ""}),
    "one field more": ([whole, {**whole, "author": "me"}], whole),
    "label None in the first": ([{**whole, "label": None}, whole], whole),
}
for number, (name, (rows, seen)) in enumerate(CASES.items()):
    read = written_and_read(rows, f"rows-{number}")
    print(f"{name}: wrote {rows[1]}, read {read[1]}")
    assert read == [rows[0], seen], "the behaviour changed"
PY
