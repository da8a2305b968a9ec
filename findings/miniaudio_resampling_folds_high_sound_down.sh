#!/bin/sh
# miniaudio 1.71 (pyminiaudio): decode_file(sample_rate=16000) of a file of 44,100 Hz keeps sound above the new limit of
# 8 kHz and folds it down: a tone of 9 kHz comes out as one of 7 kHz, 8 dB weaker, one of 10 kHz as 6 kHz, 12 dB weaker;
# soxr 1.1.0 leaves less than a thousandth of either. Sibilants of speech lie there: features of a speech model see a
# hiss that is not in the recording. Guess before it was run: at least 40 dB weaker.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q miniaudio==1.71 soxr==1.1.0 numpy==2.4.6
cd "$work"
venv/bin/python -W error - <<'PY'
import wave
from importlib.metadata import version

import miniaudio
import numpy as np
import soxr

assert version("miniaudio") == "1.71"
time = np.arange(44100) / 44100
for tone in (9000, 10000):
    sound = (0.5 * np.sin(2 * np.pi * tone * time) * 32767).astype("<i2")
    with wave.open("tone.wav", "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(sound.tobytes())
    read = np.array(miniaudio.decode_file("tone.wav", nchannels=1, sample_rate=16000).samples) / 32767
    spectrum = np.abs(np.fft.rfft(read * np.hanning(len(read))))
    weaker = -20 * np.log10(read.std() / (0.5 / 2**0.5))
    other = soxr.resample(sound / 32767, 44100, 16000)[200:-200].std()
    print(f"{tone} Hz comes out at {spectrum.argmax() * 16000 / len(read):.0f} Hz, {weaker:.1f} dB weaker; "
          f"soxr leaves {other / (0.5 / 2**0.5):.1e}")
    assert weaker < 20 and abs(spectrum.argmax() * 16000 / len(read) - (16000 - tone)) < 5, "the behaviour changed"
    assert other < 1e-3
PY
