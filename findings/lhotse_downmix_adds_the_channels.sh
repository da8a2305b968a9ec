#!/bin/sh
# lhotse 1.33.0: to_mono(mono_downmix=True) of a recording with several channels adds them and does not divide: two
# channels of .4 are .8, and eight microphones of an array 18 dB louder than each of them. What goes above 1 is cut off at
# once: of a stereo tone of .8 in both channels more than half of the samples are at full scale, though the file has no
# number above .8. Levels and thresholds of energy differ between mono and stereo recordings of one set.
# Guess before it was run: the mean of the channels.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 lhotse==1.33.0 urllib3==2.8.0 soundfile==0.14.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import soundfile
from lhotse import Recording

assert version("lhotse") == "1.33.0"
tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
for channels, loud in ((2, 0.4), (8, 0.05), (2, 0.8)):
    soundfile.write("array.wav", np.repeat(loud * tone[:, None], channels, 1), 16000, subtype="FLOAT")
    mono = Recording.from_file("array.wav").to_cut().to_mono(mono_downmix=True)
    samples = mono.load_audio()
    cut = float((abs(samples) > 0.999).mean())
    print(f"{channels} channels of {loud}: {samples.shape}, peak {abs(samples).max():.3f}, {cut:.0%} at full scale")
    assert samples.shape == (1, 16000)
    assert abs(abs(samples).max() - min(channels * loud, 1)) < 1e-3, "the behaviour changed"
    assert (cut > 0.3) is (channels * loud > 1), "the behaviour changed"
PY
