#!/bin/sh
# librosa 0.11.0: feature.mfcc of several sounds at once, which the library takes as an array (..., samples), cuts all of
# them at 80 dB below the loudest spot of all: a quiet channel (a distant microphone, a recording at a low level) beside a
# loud one has the same 20 numbers in each frame, whatever is in it, where alone it has features of its own. chroma_stft in
# the same way tunes all of them by one pitch. Nothing is said. Of sounds of one level the two are equal, so that a test
# does not show it; one call each is the way out. Guess before it was run: a batch gives what each sound gives alone.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q librosa==0.11.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import librosa
import numpy as np

assert version("librosa") == "0.11.0"
random = np.random.default_rng(0)
time = np.arange(16000) / 16000
loud = 0.9 * np.sin(2 * np.pi * 800 * time)
sweep = np.sin(2 * np.pi * (200 + 1500 * time) * time) + 0.1 * random.normal(size=16000)
for level in (0.1, 1e-5):
    quiet = level * sweep
    alone = librosa.feature.mfcc(y=quiet, sr=16000)
    beside = librosa.feature.mfcc(y=np.stack([loud, quiet]), sr=16000)[1]
    moves = float(np.ptp(beside, axis=1).max()), float(np.ptp(alone, axis=1).max())
    print(f"a sweep of amplitude {level}: moves over time by {moves[0]:.1f} beside a loud sound, by {moves[1]:.1f} alone")
    assert moves[1] > 50
    assert (moves[0] == 0) == (level < 0.01), "the behaviour changed"
    assert np.allclose(alone, beside, atol=1e-3) == (level > 0.01), "the behaviour changed"
PY
