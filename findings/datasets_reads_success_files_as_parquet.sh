#!/bin/sh
# datasets 5.2.0: load_dataset("parquet", data_dir=FOLDER) takes every file of the folder for Parquet, also those whose names
# begin with "_", such as the empty _SUCCESS that Spark and Hadoop leave beside their parts, and fails at them; pyarrow and
# pandas read the same folder and leave those out. data_files="FOLDER/*.parquet" works. Guess before it was run: names with
# "_" at the front are left out, as Parquet's readers do, or at least files that do not end in .parquet.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" -W ignore - "$work/table" <<'PY'
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import disable_progress_bars, load_dataset

disable_progress_bars()
folder = Path(sys.argv[1])
folder.mkdir()
for number in range(2):
    pq.write_table(pa.table({"n": [number]}), folder / f"part-{number}.parquet")


def rows(**given):
    try:
        return load_dataset("parquet", split="train", **given)["n"][:]
    except Exception as error:
        return type(error).__name__


before = rows(data_dir=str(folder))
(folder / "_SUCCESS").touch()
found = {
    "pyarrow": pq.read_table(folder)["n"].to_pylist(),
    "data_dir": rows(data_dir=str(folder)),
    "data_files": rows(data_files=str(folder / "*.parquet")),
}
print("without _SUCCESS", before, "with it", found)
assert before == found["pyarrow"] == found["data_files"] == [0, 1], "the behaviour changed"
assert found["data_dir"] != [0, 1], "the behaviour changed"
PY
