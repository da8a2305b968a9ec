#!/bin/sh
# soundfile 0.14.0: int16 samples that are written to a file of subtype FLOAT or DOUBLE are not scaled: 16,384, half of
# full scale, is 16384.0 in the file, 90 dB above full scale. The other way round a float file that is read with
# dtype="int16" or "int32" is not scaled either: .5 is 0 and the sound is silence. Between whole numbers of 16, 24 and
# 32 bits, and between floats and PCM, all is scaled, so that the same line is right for one file and wrong for the
# next by its subtype. Nothing is raised. The documentation says so in a note. Guess before it was run: scaled, as for
# PCM_24.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q soundfile==0.14.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import soundfile

assert version("soundfile") == "0.14.0"
half = np.array([0, 16384, -16384], "int16")
for subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
    soundfile.write("whole.wav", half, 8000, subtype=subtype)
    soundfile.write("part.wav", half / 32768, 8000, subtype=subtype)
    loud = float(soundfile.read("whole.wav")[0].max())
    back = {dtype: int(soundfile.read("part.wav", dtype=dtype)[0].max()) for dtype in ("int16", "int32")}
    print(f"{subtype}: int16 16,384 is read as {loud}; .5 is read as {back}")
    floats = subtype in ("FLOAT", "DOUBLE")
    assert loud == (16384 if floats else 0.5), "the behaviour changed"
    assert back == ({"int16": 0, "int32": 0} if floats else {"int16": 16384, "int32": 2**30}), "the behaviour changed"
PY
