#!/bin/sh
# noisereduce 3.0.3: reduce_noise(stationary=True) of several channels takes one noise for all of them, that of the mean of the
# channels, though y_noise has the noise of each. A quiet clean microphone beside a loud noisy one is noise by that measure:
# of its voice less than a tenth is left, where the same channel alone keeps three quarters. The default
# (stationary=False) gives each channel what it gets alone. Guess before it was run: each comes out as it does alone.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q noisereduce==3.0.3 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from noisereduce import reduce_noise

assert version("noisereduce") == "3.0.3"
rate, random = 16000, np.random.default_rng(0)
moments = np.arange(4 * rate) / rate
voice = sum(np.sin(2 * np.pi * 150 * harmonic * moments) / harmonic for harmonic in range(1, 11)) * (moments % 1 >= 0.5)
speech = np.stack([0.3 * voice, 0.005 * voice])
noise = np.stack([0.05 * random.normal(size=len(moments)), 0.00005 * random.normal(size=len(moments))])
first = rate // 2  # half a second before the voice begins: noise alone


def kept(channels, stationary):
    sound, pause = (speech + noise)[channels], noise[channels, :first]
    cleaned = np.atleast_2d(reduce_noise(sound.squeeze(), rate, y_noise=pause.squeeze(), stationary=stationary))
    return [round(float(one @ own / (own @ own)), 2) for one, own in zip(cleaned, speech[channels], strict=True)]


for stationary in (True, False):
    together, alone = kept([0, 1], stationary), kept([0], stationary) + kept([1], stationary)
    print(f"stationary={stationary}: of each voice is left {together} in two channels, {alone} in one by itself")
    if stationary:
        assert together[1] < 0.1 and alone[1] > 0.7, "the behaviour changed"
    else:
        assert together == alone
PY
