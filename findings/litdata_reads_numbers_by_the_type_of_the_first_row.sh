#!/bin/sh
# litdata 0.2.76: a one-dimensional array or tensor is written as its bytes alone, and read back with the type of the first
# row: int32 token ids after a row of int64 come back as half as many huge numbers, float32 features after float16 as twice
# as many wrong ones, and a matrix after a vector as a vector. Nothing is raised. Where the first row has two dimensions each
# row keeps its own type and shape. Guess before it was run: every row comes back as it was written.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 litdata==0.2.76 numpy==2.4.6
cd "$work"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import torch
from litdata import StreamingDataset
from litdata.streaming.writer import BinaryWriter

assert version("litdata") == "0.2.76"


def written_and_read(rows, folder):
    writer = BinaryWriter(folder, chunk_size=1000)
    for number, row in enumerate(rows):
        writer[number] = {"x": row}
    writer.done()
    writer.merge()
    read = StreamingDataset(folder, shuffle=False)
    return [read[number]["x"] for number in range(len(read))]


ids = torch.tensor([101, 7, 9, 102])
CASES = {
    "int32 after int64": (ids, ids.int()),
    "float32 after float16": (torch.ones(2).half(), torch.ones(2)),
    "matrix after vector": (torch.ones(2), torch.eye(2)),
    "int32 after int64 in a matrix": (ids[None], ids.int()[None]),
}
for number, (name, rows) in enumerate(CASES.items()):
    for kind, given in (("torch", rows), ("numpy", tuple(row.numpy() for row in rows))):
        first, second = (torch.as_tensor(one) for one in written_and_read(given, f"{kind}-{number}"))
        kept = second.dtype == rows[1].dtype and second.shape == rows[1].shape and torch.equal(second, rows[1])
        print(f"{kind}, {name}: wrote {rows[1].tolist()}, read {second.tolist()}")
        assert torch.equal(first, rows[0])
        assert kept == (rows[0].ndim == 2), "the behaviour changed"
PY
