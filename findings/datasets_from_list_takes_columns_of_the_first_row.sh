#!/bin/sh
# datasets 5.2.0: Dataset.from_list, and from_generator of up to some hundred rows, take the names of their columns from the
# first row and drop what later rows have besides: a list whose first picture has no "caption" has no column of captions
# at all, and nothing is said. With the same rows in another order they are all there. The same rows from a .jsonl file or
# by way of pandas keep every column. What one would expect: every column, with None where a row has none.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q datasets==5.2.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/home" venv/bin/python -W ignore - <<'PY'
import json
from pathlib import Path

import datasets
import pandas
from datasets import Dataset, load_dataset

assert datasets.__version__ == "5.2.0"
datasets.disable_progress_bars()
rows = [{"image": "1.jpg"}, {"image": "2.jpg", "caption": "a dog"}, {"image": "3.jpg", "caption": "a cat", "split": "test"}]
Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def generated():
    yield from rows


found = {
    "from_list": Dataset.from_list(rows),
    "from_list, last row first": Dataset.from_list(rows[::-1]),
    "from_generator": Dataset.from_generator(generated),
    "from_pandas": Dataset.from_pandas(pandas.DataFrame(rows)),
    "json lines": load_dataset("json", data_files="rows.jsonl", split="train"),
}
for name, table in found.items():
    print(f"{name:27}{sorted(table.column_names)}")
    columns = ["image"] if name in ("from_list", "from_generator") else ["caption", "image", "split"]
    assert sorted(table.column_names) == columns, "the behaviour changed"
PY
