#!/bin/sh
# SimpleITK 2.5.7 turns the numbers of a DICOM picture round whose small numbers are white (MONOCHROME1, as many X-ray
# pictures are) and says nothing of it: 0 becomes the largest that its bits can hold and that becomes 0, before the
# rescale. pydicom 3.0.2 gives the numbers of the file. So the same file has two arrays; code that was written for pydicom
# and inverts such pictures itself makes negatives of what SimpleITK reads, and the tag that it asks still says
# MONOCHROME1 in both. A MONOCHROME2 picture is the same in both.
# Guess before it was run: the numbers of the file in both, whatever they stand for.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q simpleitk==2.5.7 pydicom==3.0.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.pixels import apply_rescale

assert (version("simpleitk"), version("pydicom")) == ("2.5.7", "3.0.2")
pixels = np.array([[0, 1000], [2000, 4095]], np.uint16)
for kind in ("MONOCHROME1", "MONOCHROME2"):
    picture = pydicom.Dataset()
    picture.file_meta = pydicom.dataset.FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    picture.SOPClassUID, picture.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    picture.Rows, picture.Columns, picture.SamplesPerPixel, picture.PhotometricInterpretation = 2, 2, 1, kind
    picture.BitsAllocated, picture.BitsStored, picture.HighBit, picture.PixelRepresentation = 16, 12, 11, 0
    picture.RescaleSlope, picture.RescaleIntercept, picture.PixelData = 1, -1024, pixels.tobytes()
    picture.save_as("picture.dcm", enforce_file_format=True)
    file = pydicom.dcmread("picture.dcm")
    mine = apply_rescale(file.pixel_array, file)
    image = sitk.ReadImage("picture.dcm")
    other = sitk.GetArrayFromImage(image)[0]
    tag = image.GetMetaData("0028|0004").strip()
    print(f"{kind}: pydicom {mine.tolist()}, SimpleITK {other.tolist()}, whose tag is {tag}")
    assert (mine == pixels.astype(int) - 1024).all() and tag == kind
    shown = 4095 - pixels.astype(int) if kind == "MONOCHROME1" else pixels.astype(int)
    assert (other == shown - 1024).all(), "the behaviour changed"
PY
