#!/bin/sh
# hdf5plugin 7.1.0: an array that is stored with Zfp() as it is made, which is right to 1e-6 for ordinary numbers and so
# looks lossless, has plain numbers where there was NaN: holes of a depth map of 1 to 5 m come back as -8, so that isnan()
# finds none and they count in means and losses. Nothing is raised when it is written or read. Zfp(reversible=True),
# Bitshuffle, Blosc and Zstd keep them. Guess before it was run: NaN stays NaN, or the filter refuses the array.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q hdf5plugin==7.1.0 h5py==3.16.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import h5py
import hdf5plugin
import numpy as np

assert version("hdf5plugin") == "7.1.0"
depth = np.linspace(1, 5, 64, dtype=np.float32).reshape(8, 8)
depth[2:4, 2:4] = np.nan
usual = np.isfinite(depth)
for name, settings in {
    "Zfp": hdf5plugin.Zfp(),
    "Zfp(reversible)": hdf5plugin.Zfp(reversible=True),
    "Bitshuffle": hdf5plugin.Bitshuffle(),
    "Blosc": hdf5plugin.Blosc(),
    "Zstd": hdf5plugin.Zstd(),
}.items():
    with h5py.File("depth.h5", "w") as file:
        file.create_dataset("depth", data=depth, chunks=depth.shape, **settings)
    with h5py.File("depth.h5") as file:
        back = file["depth"][:]
    holes = back[~usual]
    print(f"{name}: four NaN come back as {holes.tolist()}, mean of the picture {back.mean():.2f}")
    if name == "Zfp":
        assert np.isfinite(back).all() and abs(holes).max() < 100, "the behaviour changed"
        assert (abs(back - depth)[usual] < 2e-6).all()
    else:
        assert np.array_equal(back, depth, equal_nan=True)
PY
