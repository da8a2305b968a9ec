#!/bin/sh
# imagecodecs 2026.3.6: jpeg2k_encode and htj2k_encode of a 16-bit picture in big-endian order, as TIFF, DICOM and FITS
# readers hand out, store each pixel with its two bytes changed round: 1 is 256, and what comes back looks like noise, in
# the right shape and type. Nothing is raised. The other writers of the library (PNG, JPEG XL, JPEG-LS, LERC) refuse such
# an array with ValueError. Guess before it was run: right, or refused.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q imagecodecs==2026.3.6 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import imagecodecs
import numpy as np

assert version("imagecodecs") == "2026.3.6"
picture = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
for name in ("jpeg2k", "htj2k", "png", "jpegxl", "jpegls", "lerc"):
    encode, decode = getattr(imagecodecs, f"{name}_encode"), getattr(imagecodecs, f"{name}_decode")
    assert (decode(encode(picture)) == picture).all()
    try:
        back = decode(encode(picture.astype(">u2")))
    except Exception as fault:
        answer = f"{type(fault).__name__}: {fault}"
    else:
        answer = f"{back.dtype}, first pixels {back[0, :4].tolist()}"
        assert (back == picture.byteswap()).all(), "the behaviour changed"
    print(f"{name}, big-endian 0, 1, 2, 3, ...: {answer}")
    assert ("Error" in answer) == (name not in ("jpeg2k", "htj2k")), "the behaviour changed"
PY
