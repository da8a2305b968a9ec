#!/bin/sh
# nibabel 5.4.2: a segmentation that is read by get_fdata(), worked on and saved with the header of its file comes back
# with labels that are no whole numbers: 0, 3 and 7 are 0, 2.992 and 7.00000006. The array is of floats and the header
# says uint8, so that it is scaled to fill 0 to 255, though every number would fit as it is. Then labels == 3 finds no
# voxel, and astype(int) makes 2 of 3, another organ. NaN becomes 0 on the way. The array as uint8
# (np.asarray(image.dataobj), or astype before saving) is stored as it is. What one would expect: whole numbers that
# the type can hold stay what they are.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q nibabel==5.4.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import nibabel
import numpy as np

assert version("nibabel") == "5.4.2"
labels = np.zeros((4, 4, 4), "uint8")
labels[0], labels[1] = 3, 7
nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), "labels.nii")
image = nibabel.load("labels.nii")
assert np.unique(image.get_fdata()).tolist() == [0, 3, 7] and image.get_data_dtype() == np.uint8
for name, array in (("floats", image.get_fdata()), ("uint8", image.get_fdata().astype("uint8"))):
    nibabel.save(nibabel.Nifti1Image(array, image.affine, image.header), "saved.nii")
    saved = nibabel.load("saved.nii").get_fdata()
    print(f"saved as {name}: labels {np.unique(saved).tolist()}, as int {np.unique(saved.astype(int)).tolist()}")
    kept = name == "uint8"
    assert bool((saved == 3).any()) == kept, "the behaviour changed"
    assert np.unique(saved.astype(int)).tolist() == ([0, 3, 7] if kept else [0, 2, 7]), "the behaviour changed"
scores = image.get_fdata()
scores[2] = np.nan
nibabel.save(nibabel.Nifti1Image(scores, image.affine, image.header), "scores.nii")
read = nibabel.load("scores.nii").get_fdata()
print("NaN comes back as", read[2, 0, 0])
assert read[2, 0, 0] == 0, "the behaviour changed"
PY
