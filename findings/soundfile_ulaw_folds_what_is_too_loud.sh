#!/bin/sh
# soundfile 0.14.0 (libsndfile): floats above full scale are cut off at full scale in PCM files; in a file of u-law or
# A-law, as telephone speech is kept, they come back as other numbers: of a tone with peaks of 1.5 some are off by more
# than full scale, and one sample of 1.5 is .17 in u-law and -.16 in A-law. Resampling and loudness normalization leave
# such peaks, so that speech from the telephone codecs crackles where the same samples in PCM_16 are only clipped.
# Nothing is raised. What one would expect: cut off at full scale, as in PCM.
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
tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
for subtype in ("PCM_16", "PCM_U8", "ULAW", "ALAW"):
    found = {}
    for loud in (0.9, 1.5):
        soundfile.write("tone.wav", loud * tone, 8000, subtype=subtype)
        read = soundfile.read("tone.wav")[0]
        found[loud] = float(np.abs(read - np.clip(loud * tone, -1, 1)).max())
    soundfile.write("one.wav", np.array([1.5]), 8000, subtype=subtype)
    one = float(soundfile.read("one.wav")[0][0])
    print(f"{subtype}: off by {found[0.9]:.3f} at .9 and by {found[1.5]:.3f} at 1.5; 1.5 is read as {one:.3f}")
    assert found[0.9] < 0.05
    folds = subtype in ("ULAW", "ALAW")
    assert (found[1.5] > 0.5) == folds and (abs(one) < 0.9) == folds, "the behaviour changed"
PY
