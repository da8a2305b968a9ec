"""DICOM files as pictures: stored values -> units -> window -> grey of 8 bits (or colour as it is)."""

import os

import numpy as np
from PIL import Image

from .errors import DataError


def read_dicom(path: str | os.PathLike, *, window: tuple[float, float] | None = None, frame: int | None = None):
    """A DICOM file as an RGB picture, as a viewer shows it.

    Args:
        window: (centre, width) in the units of the file (HU for CT); None: the file's first window, or, where it has
            none, the range of its values.
        frame: which picture of a file with several; None: the only one. A file with several raises without it.
    Source: DICOM PS3.3 C.11.2 (linear window: centre - 0.5, width - 1) and C.7.6.3 (photometric interpretation).

    Raises: DataError naming the file; ModuleNotFoundError without pydicom (the extra `dicom`).
    """
    try:
        from pydicom import dcmread
        from pydicom.pixels.processing import apply_modality_lut, convert_color_space
    except ModuleNotFoundError as fault:
        raise ModuleNotFoundError("DICOM needs pydicom: pip install '.[dicom]' in the checkout") from fault
    try:
        file = dcmread(path)
        values = file.pixel_array
    except Exception as fault:  # pydicom raises whatever its decoders raise
        raise DataError(f"{os.fspath(path)} cannot be read as DICOM: {fault}") from fault
    frames = int(file.get("NumberOfFrames") or 1)
    if frames > 1:
        if frame is None or not 0 <= frame < frames:
            raise DataError(f"{os.fspath(path)} has {frames} frames; frame={frame!r}, accepted are 0 to {frames - 1}")
        values = values[frame]
    kind = str(file.PhotometricInterpretation)
    if file.SamplesPerPixel == 3:
        return Image.fromarray(_colour(values, kind, convert_color_space, file))
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"{os.fspath(path)}: PhotometricInterpretation is {kind}; MM reads MONOCHROME1, 2 and colour")
    grey = _windowed(np.asarray(apply_modality_lut(values, file), np.float64), _window_of(file, window))
    grey = 1 - grey if kind == "MONOCHROME1" else grey
    return Image.fromarray((grey * 255).round().astype(np.uint8)).convert("RGB")


def _colour(values: np.ndarray, kind: str, convert, file) -> np.ndarray:
    if kind.startswith("YBR"):
        values = convert(values, kind, "RGB")
    bits = int(file.BitsStored)
    return values.astype(np.uint8) if bits <= 8 else (values >> (bits - 8)).astype(np.uint8)


def _window_of(file, window: tuple[float, float] | None) -> tuple[float, float] | None:
    if window is not None:
        return window
    centre, width = file.get("WindowCenter"), file.get("WindowWidth")
    if centre is None or width is None or centre == "" or width == "":
        return None
    first = [float(one[0] if hasattr(one, "__len__") and not isinstance(one, str) else one) for one in (centre, width)]
    return first[0], first[1]


def _windowed(values: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """float64 from 0 to 1."""
    if window is None:
        low, high = float(values.min()), float(values.max())
        return np.zeros_like(values) if low == high else (values - low) / (high - low)
    centre, width = window
    if not width >= 1:
        raise DataError(f"window={window}: the width is at least 1")
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
