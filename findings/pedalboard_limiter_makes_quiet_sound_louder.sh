#!/bin/sh
# pedalboard 0.9.26: Limiter makes sound louder that is below its threshold, since it brings the limited sound up to full scale:
# by 14 dB as it is made (threshold_db=-10), by 24 at -20, by 4 even at 0. A tone of amplitude .01 comes out at .05 and .15.
# What it limits goes to full scale: with threshold_db=-6 a tone of amplitude .5 comes out at 1.0, twice the threshold.
# A set of recordings that was to be kept from clipping changes its loudness by a setting that is named a limit.
# Guess before it was run: no peak above the threshold.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pedalboard==0.9.26 numpy==2.4.6
"$work/venv/bin/python" -W error - <<'PY'
from importlib.metadata import version

import numpy as np
from pedalboard import Limiter

assert version("pedalboard") == "0.9.26"
rate = 44100
tone = np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate).astype(np.float32)


def peak(loud, **settings):
    came = float(abs(Limiter(**settings)(loud * tone, rate)[rate:]).max())
    print(f"a tone of amplitude {loud} through Limiter({settings or ''}): {came:.4f}")
    return came


for quiet in (0.001, 0.01):
    raised = [round(20 * np.log10(peak(quiet, threshold_db=threshold) / quiet)) for threshold in (0, -10, -20)]
    print(f"at thresholds of 0, -10 and -20 dB raised by {raised} dB")
    assert raised == [4, 14, 24], "the behaviour changed"
assert abs(peak(0.01) - 0.0487) < 0.001, "the behaviour changed"
assert peak(0.5, threshold_db=-6) == 1.0, "the behaviour changed"
PY
