#!/bin/sh
# ml_dtypes 0.6.0 (bfloat16 and float8 for NumPy): one NaN breaks sort and argsort: [.1, NaN, .2, .7, .5, .8] has the order
# of before the NaN and of behind it, where NumPy puts NaN last and the rest in order for float16 and float32. A ranking by
# argsort(-scores) has every place behind the NaN sorted by itself, so that the best of them comes after worse ones: one
# overflowed score makes the ranks of the others wrong. np.unique follows it. nanmean and nansum give NaN too, though
# nanmax does not. Without NaN all is in order; astype(np.float32) before is the way out. Guess before it was run: NaN
# last, as for the other floats.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q ml_dtypes==0.6.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import ml_dtypes
import numpy as np

assert version("ml_dtypes") == "0.6.0"
scores = np.array([0.1, np.nan, 0.2, 0.7, 0.5, 0.8], np.float32)
order = {"float32": [5, 3, 4, 2, 0, 1], "float16": [5, 3, 4, 2, 0, 1]}
for name in ("float32", "float16", "bfloat16", "float8_e4m3fn"):
    given = scores.astype(getattr(ml_dtypes, name, name))
    ranked, mean, largest = np.argsort(-given).tolist(), float(np.nanmean(given)), float(np.nanmax(given))
    print(f"{name}: best first {ranked}, sorted {np.sort(given)}, nanmean {mean:.2f}, nanmax {largest:.2f}")
    assert (ranked == [5, 3, 4, 2, 0, 1]) == (name in order), "the behaviour changed"
    assert np.isnan(np.sort(given)[-1].astype(np.float32)) == (name in order), "the behaviour changed"
    assert np.isnan(mean) != (name in order), "the behaviour changed"
    assert abs(largest - 0.8) < 0.02
    assert np.argsort(-given[2:]).tolist() == [3, 1, 2, 0]
PY
