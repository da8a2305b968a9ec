#!/bin/sh
# torchmetrics 1.9.0: MeanSquaredError and MeanAbsoluteError of uint8 tensors, as pictures are decoded, subtract in
# bytes: black against white is 1 and not 65,025 and 255, and a picture with a little noise has a mean absolute error
# of over 100 and not 2, since -1 is 255. The square of a small difference comes out right, of one above 15 it does
# not. total_variation is off in the same way. Nothing is raised. peak_signal_noise_ratio of the same two tensors turns
# them into floats and is right, so that PSNR and MSE of one library do not fit each other. What one would expect:
# right, as PSNR is, or refused.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
import torchmetrics.functional as functional
from torchmetrics.functional.image import peak_signal_noise_ratio, total_variation

assert version("torchmetrics") == "1.9.0"
black, white = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
torch.manual_seed(0)
picture = torch.randint(50, 200, (1, 3, 32, 32))
noisy = (picture + torch.randint(-3, 4, picture.shape)).to(torch.uint8)
picture = picture.to(torch.uint8)
for name, one, other in (("black and white", black, white), ("little noise", picture, noisy)):
    for measure in (functional.mean_squared_error, functional.mean_absolute_error):
        found = float(measure(one, other)), float(measure(one.float(), other.float()))
        print(f"{name}, {measure.__name__}: {found[0]:.2f} of bytes, {found[1]:.2f} of floats")
        right = name == "little noise" and measure is functional.mean_squared_error
        assert (0.5 < found[0] / found[1] < 2) == right, "the behaviour changed"
    pairs = ((one, other), (one.float(), other.float()))
    ratio = [float(peak_signal_noise_ratio(*pair, data_range=255.0)) for pair in pairs]
    print(f"{name}, PSNR: {ratio[0]:.2f} of bytes, {ratio[1]:.2f} of floats")
    assert abs(ratio[0] - ratio[1]) < 1e-4
assert float(functional.mean_squared_error(black, white)) == float(functional.mean_absolute_error(black, white)) == 1
assert float(functional.mean_absolute_error(picture, noisy)) > 100, "the behaviour changed"
assert float(total_variation(picture)) > 1.2 * float(total_variation(picture.float())), "the behaviour changed"
PY
