#!/bin/sh
# safetensors 0.8.0: safetensors.numpy.save and save_file write an array that does not lie row by row in memory with the
# right shape and its numbers in another order, without a word: a transposed matrix, a kernel with its axes moved (as when
# weights are turned from another framework), every second row, an array in Fortran's order. safetensors.torch raises
# ValueError for the same, and safetensors 0.7.0 wrote all of them right. np.ascontiguousarray before saving is the way out.
# Guess before it was run: written right, since the file knows one order only, or refused as in safetensors.torch.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q safetensors==0.8.0 numpy==2.4.6
"$work/venv/bin/pip" --disable-pip-version-check install -q --no-deps --target "$work/before" safetensors==0.7.0
cd "$work"
cat >check.py <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load, load_file, save, save_file

matrix = np.arange(24, dtype="float32").reshape(6, 4)
kernel = np.arange(72, dtype="float32").reshape(3, 3, 2, 4)
written = {
    "as it is": matrix,
    "transposed": matrix.T,
    "axes moved": np.moveaxis(kernel, (2, 3), (1, 0)),
    "every second row": matrix[::2],
    "three columns": matrix[:, :3],
    "Fortran's order": np.asfortranarray(matrix),
}
save_file(written, "weights.safetensors")
for name, array in written.items():
    read = (load(save({name: array}))[name], load_file("weights.safetensors")[name])
    same = [bool(np.array_equal(one, array)) for one in read]
    print(f"safetensors {safetensors.__version__}, {name}: shape kept {read[0].shape == array.shape}, numbers kept {same}")
    assert read[0].shape == array.shape
    assert same == [sys.argv[1] == "0.7.0" or array is matrix] * 2, "the behaviour changed"
assert safetensors.__version__ == sys.argv[1]
PY
venv/bin/python -W error check.py 0.8.0
PYTHONPATH="$work/before" venv/bin/python -W error check.py 0.7.0
