"""Which frames of a video are taken: by its times, its frame numbers, or its keyframes.

|   ×   |   ×   |   ×   |     uniform: the middles of equal parts
|  ×    |     × |×      |     in training, with jitter: anywhere in them (segments: Wang et al. 2016, arXiv:1608.00859)
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

FRAME_SAMPLINGS = ("uniform", "keyframes")


def check_frame_settings(num_frames: Any, frame_sampling: Any) -> None:
    """Raises ValueError unless num_frames is a count and frame_sampling one of FRAME_SAMPLINGS or a rate above 0."""
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
        raise ValueError(f"num_frames={num_frames!r}; accepted are whole numbers from 1")
    rate = isinstance(frame_sampling, (int, float)) and not isinstance(frame_sampling, bool)
    if not (0 < frame_sampling < math.inf if rate else frame_sampling in FRAME_SAMPLINGS):
        raise ValueError(
            f"frame_sampling={frame_sampling!r}; accepted are {', '.join(map(repr, FRAME_SAMPLINGS))}, or a "
            f"number of frames per second above 0"
        )


def check_positive(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is None or a number above 0."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if value is not None and not (number and value > 0):
        raise ValueError(f"{name}={value!r}; accepted are numbers above 0, or None")


def check_jitter(frame_jitter: Any) -> None:
    """Raises ValueError unless that is a share of the time between two frames, 0..1."""
    if isinstance(frame_jitter, bool) or not isinstance(frame_jitter, (int, float)) or not 0 <= frame_jitter <= 1:
        raise ValueError(f"frame_jitter={frame_jitter!r}; accepted are 0..1, a share of the time between two frames")


def frame_shifts(num_frames: int, frame_jitter: float, rng: np.random.Generator | None) -> list[float]:
    """How far each of the frames taken is moved, in parts of a video: within -jitter / 2 and jitter / 2, below the
    latter; all 0 without an rng."""
    if rng is None:
        return [0.0] * num_frames
    return (frame_jitter * (rng.random(num_frames) - 0.5)).tolist()


def spread(count: int, wanted: int, shifts: Sequence[float] | None = None) -> list[int]:
    """At most `wanted` of 0..count-1, rising: the middles of as many equal parts, moved by `shifts` (of a part, within
    -0.5 and 0.5); all where there are no more."""
    if count <= wanted:
        return list(range(count))
    numbers: list[int] = []
    for part in range(wanted):
        number = int((part + 0.5 + (shifts[part] if shifts else 0)) * count / wanted)
        # the next one where the frame is taken already: parts are longer than a frame, so it is of this part, too
        numbers.append(min(max([number, *(last + 1 for last in numbers[-1:])]), count - wanted + part))
    return numbers


def sample_times(
    seconds: float, num_frames: int, frame_sampling: str | float, shifts: Sequence[float] | None = None
) -> list[float]:
    """The times at which frames are taken of a video that lasts `seconds`.

    "uniform": the middles of num_frames equal parts. A number: 0, 1 / rate, 2 / rate, ... while that makes num_frames
    at most, else uniform. `shifts` move them, within the video: by parts, or by times between two frames.
    """
    shifts = shifts or [0.0] * num_frames
    if not isinstance(frame_sampling, str):
        count = max(1, math.ceil(min(seconds * frame_sampling, num_frames + 1) - 1e-9))
        if count <= num_frames:
            return [min(max(0.0, (number + shifts[number]) / frame_sampling), seconds) for number in range(count)]
    return [(part + 0.5 + shifts[part]) * seconds / num_frames for part in range(num_frames)]


def shown_at(starts: Sequence[float], times: Sequence[float]) -> list[int]:
    """The numbers of the frames that are shown at `times`, each once; `starts` are the frames' own times, rising."""
    numbers = []
    for time in times:
        number = max(0, sum(start <= time + 1e-6 for start in starts) - 1)
        if number not in numbers:
            numbers.append(number)
    return numbers
