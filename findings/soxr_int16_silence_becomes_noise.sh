#!/bin/sh
# soxr 1.1.0: int16 sound is dithered on its way out, so a second of digital silence comes back with values of -1 and 1 in
# about a quarter of its samples, in streams too, in the silent channel of a stereo sound, and even when both rates are
# equal and nothing is resampled. The noise is the same each time. int32 and float32 silence stay silent. What looks for
# exact zeros (silence, padding, equal files by hash) does not find them any more.
# Guess before it was run: zeros stay zeros.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q soxr==1.1.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import numpy as np
import soxr

assert soxr.__version__ == "1.1.0"
one_side = np.zeros((48000, 2), np.int16)
one_side[:, 0] = 1000
stream = soxr.ResampleStream(48000, 16000, 1, dtype="int16")
silent = np.zeros(48000, np.int16)
for name, made in {
    "48 to 16 kHz": soxr.resample(silent, 48000, 16000),
    "48 to 48 kHz": soxr.resample(silent, 48000, 48000),
    "stream": stream.resample_chunk(silent, last=True),
    "silent channel of two": soxr.resample(one_side, 48000, 16000)[:, 1],
}.items():
    share = np.mean(made != 0)
    print(f"int16, {name}: {share:.0%} of the samples are not zero, the largest is {np.abs(made).max()}")
    assert share > 0.1 and np.abs(made).max() == 1, "the behaviour changed"
assert np.array_equal(soxr.resample(silent, 48000, 16000), soxr.resample(silent, 48000, 16000))
for dtype in (np.int32, np.float32):
    assert not soxr.resample(silent.astype(dtype), 48000, 16000).any()
PY
