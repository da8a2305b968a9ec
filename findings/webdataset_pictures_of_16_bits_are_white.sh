#!/bin/sh
# webdataset 1.0.2 (Pillow 13.0.0): decode("pil") turns every picture into RGB, and a PNG of 16 bits, as depth maps,
# X-ray pictures and scans are, is cut off at 255 on the way: depths from 1 to 10 m in millimetres are all white, in
# three channels. TarWriter wrote the 16 bits from the array without a word. So it is with "pilrgb", "rgb8" and "rgb",
# and "l8" is white too. Without decode() a row holds the bytes of the file, which Pillow reads with all 16 bits. Guess
# before it was run: the picture as it is in the file.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q webdataset==1.0.2 braceexpand==0.1.7 pyyaml==6.0.4 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import io

import numpy as np
import webdataset
from PIL import Image

assert (version("webdataset"), version("pillow")) == ("1.0.2", "13.0.0")
depth = np.linspace(1000, 10000, 64).astype("uint16").reshape(8, 8)  # millimetres
with webdataset.TarWriter("shard.tar") as writer:
    writer.write({"__key__": "sample", "png": depth})
(row,) = webdataset.WebDataset("shard.tar", shardshuffle=False)
assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["png"]))), depth)  # the file holds all of it
for name in ("pil", "pilrgb", "rgb8", "rgb", "l8"):
    (row,) = webdataset.WebDataset("shard.tar", shardshuffle=False).decode(name)
    read = np.asarray(row["png"])
    print(f"{name}: {type(row['png']).__name__} {read.shape} {read.dtype}, values {np.unique(read).tolist()}")
    assert len(np.unique(read)) == 1 and read.max() == (1 if name == "rgb" else 255), "the behaviour changed"
PY
