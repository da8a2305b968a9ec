"""A sound from disk in stretches at one rate, for files of any length: `load_sound` without an array of the whole."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..images.limits import MediaDecodeError, decoding
from .files import module, sound_stretches
from .load import LOUDEST


def stream_sound(path: str | Path, sampling_rate: int) -> Iterator[np.ndarray]:
    """float32 (samples,) at `sampling_rate`, stretch after stretch, one channel.

    Raises: MediaDecodeError for a file that is broken, empty or holds NaN, where that is met; FileNotFoundError.
    """
    name, resampler, found = Path(path).name, None, 0
    with open(path, "rb") as file:
        for stretch, rate in sound_stretches(file, name, math.inf, math.inf):
            with decoding(name):
                _check_values(stretch)
            if rate != sampling_rate and resampler is None:
                resampler = module("soxr").ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")
            found += len(stretch)
            yield _resampled(resampler, stretch, last=False)
    if not found:
        with decoding(name):
            raise MediaDecodeError("it is empty: there are no samples")
    yield _resampled(resampler, np.zeros(0, np.float32), last=True)


def _resampled(resampler: Any, stretch: np.ndarray, last: bool) -> np.ndarray:
    return stretch if resampler is None else resampler.resample_chunk(stretch, last=last)


def _check_values(stretch: np.ndarray) -> None:
    if not np.isfinite(stretch).all():
        raise MediaDecodeError("it holds NaN or Inf")
    if len(stretch) and np.abs(stretch).max() > LOUDEST:
        raise MediaDecodeError(f"it is {np.abs(stretch).max():.3g} times as loud as full scale")
