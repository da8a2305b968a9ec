#!/bin/sh
# torchmetrics 1.9.0: the calibration error of the same two-class predictions depends on how they are handed over.
# BinaryCalibrationError compares the probability of class 1 with the share of class 1; MulticlassCalibrationError of the
# two columns compares the confidence of the chosen class with its accuracy, which is what papers call ECE. A model that
# says .3 where class 1 is .2 and .7 where it is .6 is off by .1 everywhere in the first and perfect (0) in the second,
# where its two mistakes cancel in one bin of confidence .7. Guess before it was run: one number, that of the confidence.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import torch
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError

assert version("torchmetrics") == "1.9.0"
said = torch.tensor([0.3] * 100 + [0.7] * 100)
for shares, binary, columns in (((20, 60), 0.1, 0.0), ((30, 70), 0.0, 0.0), ((40, 60), 0.1, 0.1)):
    truth = torch.cat([(torch.arange(100) < share).long() for share in shares])
    one = BinaryCalibrationError(15)(said, truth).item()
    two = MulticlassCalibrationError(2, 15)(torch.stack([1 - said, said], 1), truth).item()
    print(f"says .3 and .7, true in {shares[0]} % and {shares[1]} %: binary {one:.3f}, two columns {two:.3f}")
    assert abs(one - binary) < 1e-4 and abs(two - columns) < 1e-4, "the behaviour changed"
PY
