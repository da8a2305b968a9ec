#!/bin/sh
# deeplake 4.7.4: an Image column takes pictures of other kinds of numbers than bytes and keeps what a byte holds of them:
# floats between 0 and 1 become 0, and 1 where the picture is white; of 16 bits the lower eight are kept, so that 256 and
# 512 are 0. In columns of numbers 2 to the power of 40 is 0 in Int32 and 2.7 is 2. Nothing is raised. Strings among
# numbers are refused, and so are vectors of the wrong length. Guess before it was run: refused, or brought to 0 to 255.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q deeplake==4.7.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import deeplake
import numpy as np

assert version("deeplake") == "4.7.4"
picture = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)


def through(kind, value, name):
    data = deeplake.create(f"file://{name}")
    data.add_column("x", kind)
    data.append({"x": [value]})
    return data[0]["x"]


image = deeplake.types.Image(sample_compression="png")
assert (through(image, picture, "bytes") == picture).all()
floats = through(image, (picture / 255).astype(np.float32), "floats")
print("floats from 0 to 1:", floats.dtype, "with the numbers", np.unique(floats).tolist())
assert floats.max() <= 1, "the behaviour changed"
deep = through(image, picture.astype(np.uint16) * 256 + 7, "deep")
print("16 bits, all of them 256 times a byte and 7 more:", deep.dtype, "with the numbers", np.unique(deep).tolist())
assert (deep == 7).all(), "the behaviour changed"
whole = through(deeplake.types.Int32(), 2**40, "whole"), through(deeplake.types.Int32(), 2.7, "part")
print("2 ** 40 and 2.7 in Int32:", *whole)
assert [int(one) for one in whole] == [0, 2], "the behaviour changed"
PY
