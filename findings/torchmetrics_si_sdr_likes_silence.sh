#!/bin/sh
# torchmetrics 1.9.0: the scale-invariant signal-to-distortion ratio of an output that is all zeros is 0 dB, better
# than a voice under three times as much noise (-9.7 dB) and than plain noise (-44 dB): both sides of the ratio are
# kept from zero by the same small number. A separator that falls silent scores above one that hears something, and in
# a mean over clips silence lifts the score of a weak model. The noise a million times quieter has -0.3 dB, so that
# wrong output gets better by being quiet, though the measure is to be free of scale. What one would expect: the lowest
# number there is, for nothing of the voice is in it.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr

assert version("torchmetrics") == "1.9.0"
draw = torch.Generator().manual_seed(0)
voice, noise = torch.randn(8000, generator=draw), torch.randn(8000, generator=draw)
outputs = {
    "silence": torch.zeros(8000),
    "a voice in noise": voice + 3 * noise,
    "noise": noise,
    "noise of 1e-6": 1e-6 * noise,
}
found = {name: round(float(si_sdr(output, voice)), 1) for name, output in outputs.items()}
print("SI-SDR in dB:", found)
assert found["silence"] == 0, "the behaviour changed"
assert -11 < found["a voice in noise"] < -8 and found["noise"] < -30 and found["noise of 1e-6"] > -1
PY
