#!/bin/sh
# torchio 1.2.1: Pad and CropOrPad fill a LabelMap with the same number as the pictures beside it. padding_mode="mean"
# fills the labels with the mean of the labels: around a map of 0 and 2 lies a frame of 1, another organ. A number that is
# meant for the picture is a label too, 7 as class 7. Transforms that resample leave label maps out:
# RandomAffine(default_pad_value="mean") or 7 fills labels with 0. So a network learns from a frame of a class that nobody
# drew. Guess before it was run: 0 around a label map, whatever goes around the picture.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 torchio==1.2.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import torch
import torchio

assert version("torchio") == "1.2.1"
labels = torch.zeros(1, 8, 8, 4, dtype=torch.uint8)
labels[:, :4] = 2


def classes(transform, told):
    picture = torchio.ScalarImage(tensor=torch.rand(1, 8, 8, 4))
    subject = torchio.Subject(picture=picture, organs=torchio.LabelMap(tensor=labels.clone()))
    values, counts = torch.unique(transform(subject).organs.data, return_counts=True)
    found = dict(zip([int(value) for value in values], counts.tolist()))
    print(f"{told}: voxels of each class {found}")
    return found


before = classes(torchio.Pad(0), "as it was")
assert before == {0: 128, 2: 128}
for value, made in (("mean", 1), (7, 7)):
    for transform in (torchio.Pad(2, padding_mode=value), torchio.CropOrPad((12, 12, 8), padding_mode=value)):
        found = classes(transform, f"{type(transform).__name__} with {value!r}")
        assert found == {0: 128, 2: 128, made: 896}, "the behaviour changed"
    move = torchio.RandomAffine(scales=0, degrees=0, translation=(2, 2, 0, 0, 0, 0), default_pad_value=value)
    assert set(classes(move, f"RandomAffine with {value!r}")) == {0, 2}, "the behaviour changed"
PY
