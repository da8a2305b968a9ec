#!/bin/sh
# fastparquet 2026.9.0 and pyarrow 26.0.1, through pandas: a column of lists (embeddings, boxes, token ids) that
# fastparquet writes is JSON text in the file. It reads it back as lists itself, and pyarrow, with everything that is
# built on it, gives the texts "[0.25,0.5]". The other way round float16, which pyarrow writes, is bytes to fastparquet:
# 1.0 is b"\x00<", in a column of objects, and a column of dicts (how an image column is kept) is there by its fields
# only, so that its name is a KeyError. Lists that pyarrow wrote are read right.
# Guess before it was run: lists, numbers and dicts, or an error of the writer.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q fastparquet==2026.9.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import fastparquet
import numpy as np
import pandas as pd
import pyarrow.parquet

assert (version("fastparquet"), version("pyarrow")) == ("2026.9.0", "26.0.1")


def by_fastparquet(name):
    return fastparquet.ParquetFile(name).to_pandas()


lists = pd.DataFrame({"vector": [[0.25, 0.5], [1.0, 2.0]]})
fastparquet.write("theirs.parquet", lists)
column = pyarrow.parquet.read_table("theirs.parquet")["vector"]
print(f"lists by fastparquet, read by itself {by_fastparquet('theirs.parquet').vector.tolist()}, by pyarrow {column.to_pylist()}")
assert by_fastparquet("theirs.parquet").vector.tolist() == [[0.25, 0.5], [1.0, 2.0]]
assert column.to_pylist() == ["[0.25,0.5]", "[1.0,2.0]"], "the behaviour changed"
lists.to_parquet("arrow.parquet", engine="pyarrow")
assert [list(row) for row in by_fastparquet("arrow.parquet").vector] == [[0.25, 0.5], [1.0, 2.0]]
half = pd.DataFrame({"score": np.array([1, 0.5], np.float16)})
half.to_parquet("half.parquet", engine="pyarrow")
assert pyarrow.parquet.read_table("half.parquet")["score"].to_pylist() == [1, 0.5]
read = by_fastparquet("half.parquet").score.tolist()
print(f"float16 1 and .5 by pyarrow, read by fastparquet {read}")
assert read == [b"\x00<", b"\x008"], "the behaviour changed"
pd.DataFrame({"image": [{"path": "a.png"}, {"path": "b.png"}]}).to_parquet("images.parquet", engine="pyarrow")
print("columns of dicts under image, read by fastparquet:", list(by_fastparquet("images.parquet").columns))
assert "image" not in by_fastparquet("images.parquet").columns, "the behaviour changed"
PY
