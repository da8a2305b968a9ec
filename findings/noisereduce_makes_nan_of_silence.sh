#!/bin/sh
# noisereduce 3.0.3: reduce_noise() with its own settings makes NaN of digital silence: a muted recording, and of a stereo sound
# the channel that is silent while the other stays right. Each bin is divided by its own mean over time, 0 / 0. The same
# silence with one sample of 1e-6 in it, or with stationary=True, has no NaN. The answer has the type and the length that
# one expects, and only NumPy's warning tells. Guess before it was run: silence stays silence.
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
rate = 16000
silence, sound = np.zeros(2 * rate), np.random.default_rng(0).normal(0, 0.1, 2 * rate)
tick = silence.copy()
tick[rate] = 1e-6


def share(name, sound, **settings):
    cleaned = reduce_noise(sound, rate, **settings)
    found = np.isnan(cleaned).mean(-1)
    print(f"{name}: NaN in {found} of the samples")
    return found.tolist()


assert share("silence", silence) == 1, "the behaviour changed"
assert share("sound and silence, two channels", np.stack([sound, silence])) == [0, 1], "the behaviour changed"
assert share("silence, stationary=True", silence, stationary=True) == 0
assert share("silence with one sample of 1e-6", tick) == 0
PY
