"""Videos as frames: which frames of a video are taken."""

from typing import Any

FRAME_SAMPLINGS = ("uniform", "keyframes")


def check_frame_settings(num_frames: Any, frame_sampling: Any) -> None:
    """Raises ValueError unless num_frames is a count and frame_sampling one of FRAME_SAMPLINGS or a rate above 0."""
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
        raise ValueError(f"num_frames={num_frames!r}; accepted are whole numbers from 1")
    rate = isinstance(frame_sampling, (int, float)) and not isinstance(frame_sampling, bool)
    if not (frame_sampling > 0 if rate else frame_sampling in FRAME_SAMPLINGS):
        raise ValueError(
            f"frame_sampling={frame_sampling!r}; accepted are {', '.join(map(repr, FRAME_SAMPLINGS))}, or a "
            f"number of frames per second above 0"
        )
