#!/bin/sh
# scikit-image 0.26.0: peak_signal_noise_ratio takes the range of floats from the smallest number of the true picture:
# 0 to 1 where none is below 0, and -1 to 1, twice as much, where one is. One pixel of -.0001 (a sharp resize, a
# rounding) lifts the ratio by 6 dB, so that two data sets, or two pictures of one, are on different scales without a
# word. structural_similarity refuses floats without data_range. Whole numbers are measured by their type: 12-bit
# pixels in uint16 have 24 dB more than the same pixels divided by 4,095. data_range=1 gives one scale. Guess before it
# was run: floats without data_range are refused, as by structural_similarity.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q scikit-image==0.26.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

assert version("scikit-image") == "0.26.0"
draw = np.random.default_rng(0)
truth = draw.random((32, 32))
told = truth + 0.05
below = truth.copy()
below[0, 0] = -0.0001
ratios = [peak_signal_noise_ratio(one, one + 0.05) for one in (truth, below)]
same = [peak_signal_noise_ratio(one, one + 0.05, data_range=1) for one in (truth, below)]
print(f"PSNR {ratios[0]:.2f} dB, with one pixel of -.0001 {ratios[1]:.2f} dB; with data_range=1", np.round(same, 2))
assert abs(ratios[1] - ratios[0] - 6.02) < 0.01 and abs(same[1] - same[0]) < 0.01, "the behaviour changed"
try:
    structural_similarity(truth, told)
except ValueError:
    print("structural_similarity refuses the same pictures")
else:
    raise AssertionError("the behaviour changed")
deep = draw.integers(0, 4000, (32, 32)).astype("uint16")
noisy = (deep + 50).astype("uint16")
whole, parts = peak_signal_noise_ratio(deep, noisy), peak_signal_noise_ratio(deep / 4095, noisy / 4095, data_range=1)
print(f"12 bits in uint16: {whole:.2f} dB, divided by 4,095: {parts:.2f} dB")
assert abs(whole - parts - 24.09) < 0.01, "the behaviour changed"
PY
