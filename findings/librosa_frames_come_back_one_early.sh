#!/bin/sh
# librosa 0.11.0: time_to_frames and time_to_samples cut off where they should round, so that they are not the inverses of
# frames_to_time and samples_to_time: frame 15 at 22,050 or 44,100 Hz is .348 s, and .348 s (the same number) is frame 14.
# It is so for one frame in fifteen and one sample in twelve; at 16,000 Hz only from 1,001 on, so that short tests pass.
# Labels, beats and cuts that were stored in seconds come back one frame early here and there. Guess before it was run:
# there and back is the same frame.
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
for rate, first in ((16000, 1001), (22050, 15), (44100, 15)):
    frames, samples = np.arange(6000), np.arange(60000)
    back = librosa.time_to_frames(librosa.frames_to_time(frames, sr=rate), sr=rate)
    again = librosa.time_to_samples(librosa.samples_to_time(samples, sr=rate), sr=rate)
    off = np.flatnonzero(back != frames)
    print(f"{rate} Hz: {len(off)} of 6000 frames and {(again != samples).sum()} of 60000 samples are others, first {off[:4]}")
    assert (again[again != samples] == samples[again != samples] - 1).all()
    assert off[0] == first and (back[off] == off - 1).all(), "the behaviour changed"
time = librosa.frames_to_time(15, sr=22050)
print("frame 15 is", time, "s, and that is frame", librosa.time_to_frames(time, sr=22050))
PY
