#!/bin/sh
# webdataset 1.0.2: decode() makes integers of what stands under "id", "index", "inx" and "cls" by Python's int(), so ids
# lose zeros in front and underscores: "007" is 7, as "7" is, and "2014_0001" is 20140001. Two samples get one id, and
# neither is found again in the table of captions that it came from; TarWriter wrote both without a word. An id with a
# letter in it raises instead, so that ids like "0a1" break a reader in the middle of a shard. Under another name
# ("sample_id.txt") the text stays. Guess before it was run: an id is text.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q webdataset==1.0.2 braceexpand==0.1.7 pyyaml==6.0.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import webdataset

assert version("webdataset") == "1.0.2"
ids = ["7", "007", "2014_0001", " 12 "]
with webdataset.TarWriter("shard.tar") as writer:
    for number, one in enumerate(ids):
        writer.write({"__key__": f"sample{number}", "id": one, "sample_id.txt": one})
rows = list(webdataset.WebDataset("shard.tar", shardshuffle=False).decode())
for one, row in zip(ids, rows):
    print(f"id {one!r} is read as {row['id']!r}, as sample_id.txt {row['sample_id.txt']!r}")
    assert row["sample_id.txt"] == one
assert [row["id"] for row in rows] == [7, 7, 20140001, 12], "the behaviour changed"
with webdataset.TarWriter("letters.tar") as writer:
    writer.write({"__key__": "sample", "id": "0a1"})
try:
    list(webdataset.WebDataset("letters.tar", shardshuffle=False).decode())
except Exception as fault:
    print(f"id '0a1': {type(fault).__name__}")
else:
    raise AssertionError("the behaviour changed")
PY
