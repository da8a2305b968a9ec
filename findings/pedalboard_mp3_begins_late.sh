#!/bin/sh
# pedalboard 0.9.26 (Linux): AudioFile keeps the encoder's delay at the beginning of an MP3 and its padding at the end,
# though the file says how long they are (the Xing/LAME header that every common encoder writes). soundfile 0.14.0 takes them
# off. Of 2 s at 44.1 kHz: 89,856 frames in place of 88,200, and from 1,105 frames (25 ms) later on the same samples. Times
# of words, beats and labels are 25 ms off, and an MP3 beside its WAV does not add up. So of the MP3 that it writes itself.
# Guess before it was run: as many frames as soundfile.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pedalboard==0.9.26 soundfile==0.14.0 numpy==2.4.6
cd "$work"
venv/bin/python -W error - <<'PY'
from importlib.metadata import version

import numpy as np
import soundfile
from pedalboard.io import AudioFile

assert (version("pedalboard"), version("soundfile")) == ("0.9.26", "0.14.0")
rate, frames = 44100, 88200
sound = np.random.default_rng(0).normal(0, 0.1, frames).astype(np.float32)
soundfile.write("sound.mp3", sound, rate)
with AudioFile("sound.wav", "w", rate) as file:
    file.write(sound)
with AudioFile("own.mp3", "w", rate) as file:
    file.write(sound)


def late(name):
    with AudioFile(name) as file:
        theirs = file.read(file.frames)[0]
    right = soundfile.read(name, dtype="float32")[0]
    piece = right[10000:40000]
    delay = min(range(3000), key=lambda start: float(abs(theirs[10000 + start : 40000 + start : 50] - piece[::50]).max()))
    off = float(abs(theirs[10000 + delay : 40000 + delay] - piece).max())
    print(f"{name}: {len(theirs)} frames, {len(right)} by soundfile; equal within {off:.0e} when {delay} frames later")
    return len(theirs), len(right), delay, off < 1e-3


assert late("sound.wav") == (frames, frames, 0, True)
assert late("sound.mp3") == (89856, frames, 1105, True), "the behaviour changed"
assert late("own.mp3") == (89856, frames, 1105, True), "the behaviour changed"
PY
