#!/bin/sh
# ml_dtypes 0.6.0 (bfloat16 and float8 for NumPy, as JAX and ONNX give them): sum() and mean() add up in the type itself,
# and stop where one more no longer counts: a thousand ones in bfloat16 have the sum 256 and the mean .256, in
# float8_e4m3fn the mean .016. The mean of 4,096 patch features of about .5 is .0625, whatever they are, and nothing is
# said; over 50 rows it is right, so that a small test does not show it. NumPy's own float16 has the mean 1.
# mean(dtype=np.float32) is right, and so is a @ b. Guess before it was run: mean 1, since NumPy adds float16 up in
# float32.
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
features = np.random.default_rng(0).uniform(0, 1, (4096, 3)).astype(np.float32)
WANTED = {"float16": 1.0, "bfloat16": 256 / 1000, "float8_e4m3fn": 16 / 1000, "float8_e5m2": 8 / 1000}
for name, wanted in WANTED.items():
    kind = getattr(ml_dtypes, name, np.float16)
    ones = np.ones(1000, kind)
    mean, whole = float(ones.mean()), float(ones.mean(dtype=np.float32))
    print(f"{name}: mean of a thousand ones {mean:.4f}, with dtype=np.float32 {whole}")
    assert abs(mean - wanted) < 0.002, "the behaviour changed"
    assert whole == 1
half = features.astype(ml_dtypes.bfloat16)
print("mean of 4,096 features:", features.mean(0), "in bfloat16:", half.mean(0), "of 50:", half[:50].mean(0))
assert (half.mean(0) == 0.0625).all(), "the behaviour changed"
assert abs(half[:50].mean(0).astype(np.float32) - features[:50].mean(0)).max() < 0.01
assert float(half[:1000, 0] @ np.ones(1000, ml_dtypes.bfloat16)) > 400
PY
