#!/bin/sh
# audiomentations 0.43.1: ClippingDistortion cuts off what is louder than a percentile of the samples, at most 20 % of them on
# each side. In a sound that is padded to a fixed length most samples are zero, so that the percentile is zero and the whole
# sound becomes silence: one second of noise in ten is gone in two of three calls, in four seconds in one of three, with its
# label still there. A sound without padding is never gone. Clip before padding.
# Guess before it was run: the peaks are cut off; a quieter sound stays a sound.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q audiomentations==0.43.1 numpy==2.4.6
"$work/venv/bin/python" -W ignore - 2>"$work/log" <<'PY' || { cat "$work/log"; exit 1; }
import random
from importlib.metadata import version

import numpy as np
from audiomentations import ClippingDistortion

assert version("audiomentations") == "0.43.1"
sound = np.random.default_rng(0).normal(size=16000).astype("float32") / 10
clip = ClippingDistortion(p=1)
for seconds, least, most in ((1, 0, 0), (2, 0, 0), (4, 0.2, 0.5), (10, 0.5, 0.8)):
    random.seed(0)
    np.random.seed(0)
    padded = np.zeros(16000 * seconds, dtype="float32")
    padded[: len(sound)] = sound
    gone = np.mean([not clip(padded.copy(), 16000).any() for _ in range(200)])
    print(f"a second of noise in {seconds:2} seconds: {gone:.0%} of the calls give silence")
    assert least <= gone <= most, "the behaviour changed"
PY
