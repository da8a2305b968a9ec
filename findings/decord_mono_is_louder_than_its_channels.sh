#!/bin/sh
# decord (eva-decord 0.6.1): AudioReader makes one channel of two unless it is told otherwise, and that is the sum of both
# divided by the root of 2, not by 2: of a stereo file with the same sound of amplitude .5 in both channels it is .707, 3
# dB louder than in either, and of .9 it is 1.27, above full scale. A mono file of that sound stays at .5. So sounds
# differ in level by the layout of the file, and what saves them as 16 bits clips.
# Guess before it was run: the mean of the channels.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q eva-decord==0.6.1 soundfile==0.14.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import decord
import numpy as np
import soundfile

assert version("eva-decord") == "0.6.1"
tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
for loud in (0.5, 0.9):
    peaks = {}
    for name, gains in (("mono", [loud]), ("both alike", [loud, loud]), ("left only", [loud, 0])):
        soundfile.write("tone.wav", tone[:, None] * gains, 16000)
        read = decord.AudioReader("tone.wav")[:].asnumpy()
        assert read.shape == (1, 16000)
        peaks[name] = round(float(abs(read).max() / loud), 3)
        print(f"amplitude {loud}, {name}: peak {abs(read).max():.3f}, {peaks[name]} of a channel's")
    assert peaks == {"mono": 1.0, "both alike": 1.414, "left only": 0.707}, "the behaviour changed"
PY
