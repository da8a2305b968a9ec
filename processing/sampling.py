"""Which frames of a video are taken: by its times, its frame numbers, or its keyframes."""

import math
from collections.abc import Sequence
from typing import Any

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


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of 0..count-1: the middles of as many equal parts; all where there are no more."""
    if count <= wanted:
        return list(range(count))
    return [int((2 * part + 1) * count // (2 * wanted)) for part in range(wanted)]


def sample_times(seconds: float, num_frames: int, frame_sampling: str | float) -> list[float]:
    """The times at which frames are taken of a video that lasts `seconds`.

    "uniform": the middles of num_frames equal parts. A number: 0, 1 / rate, 2 / rate, ... while that makes num_frames
    at most, else uniform.
    """
    if not isinstance(frame_sampling, str):
        count = max(1, math.ceil(min(seconds * frame_sampling, num_frames + 1) - 1e-9))
        if count <= num_frames:
            return [number / frame_sampling for number in range(count)]
    return [(2 * part + 1) * seconds / (2 * num_frames) for part in range(num_frames)]


def shown_at(starts: Sequence[float], times: Sequence[float]) -> list[int]:
    """The numbers of the frames that are shown at `times`, each once; `starts` are the frames' own times, rising."""
    numbers = []
    for time in times:
        number = max(0, sum(start <= time + 1e-6 for start in starts) - 1)
        if number not in numbers:
            numbers.append(number)
    return numbers
