"""Augmentation of sounds for training: stretches of time and bands of frequency are hidden from the tower.

    F ┌──▒▒────────▒┐      time_masks stretches of up to time_width of the frames that hold sound
      │▒▒▒▒▒▒▒▒▒▒▒▒▒│      frequency_masks bands of up to frequency_width of all
      └──▒▒────────▒┘ T    ▒: the mean of the clip, so that its level stays

SpecAugment without its time warping: Park et al. 2019, arXiv:1904.08779. F bands, T frames (samples, of raw waves).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..images.limits import check_count, check_share


@dataclass(frozen=True)
class SoundAugmentation:
    """A callable (features, valid, rng) -> features. Widths are the largest shares; what is 0 is left out.

    time_masks, time_width: number of stretches, each of up to this share of the valid frames (p of the paper).
    frequency_masks, frequency_width: number of bands, each of up to this share of the bands (the paper's 27 of 80).
        Features that are raw waves have none.
    """

    time_masks: int = 2
    time_width: float = 0.1
    frequency_masks: int = 2
    frequency_width: float = 0.25

    def __post_init__(self):
        for name in ("time_masks", "frequency_masks"):
            check_count(name, getattr(self, name))
        for name in ("time_width", "frequency_width"):
            check_share(name, getattr(self, name))

    def __call__(self, features: torch.Tensor, valid: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Features (..., T, F), or (T, 1) of a raw wave, with what is hidden; `valid`, bool (T,), stays as it is
        where it is False."""
        frames = valid.nonzero().flatten()
        hidden = torch.zeros(features.shape[-2:], dtype=torch.bool)
        for _ in range(self.time_masks):
            start, end = _span(len(frames), self.time_width, rng)
            hidden[frames[start:end]] = True
        for _ in range(self.frequency_masks):
            start, end = _span(features.shape[-1], self.frequency_width, rng)
            hidden[:, start:end] |= features.shape[-1] > 1
        return torch.where(hidden & valid[:, None], features[..., frames, :].mean((-2, -1), keepdim=True), features)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them; `SoundAugmentation(**settings)` is this one again."""
        return asdict(self)


def _span(length: int, width: float, rng: np.random.Generator) -> tuple[int, int]:
    """A random stretch of 0..length: its width uniform up to that share, then its place."""
    span = int(rng.integers(int(width * length) + 1))
    start = int(rng.integers(length - span + 1))
    return start, start + span


def _frequency_axis(feature_extractor: Any, features: torch.Tensor) -> int | None:
    """Which axis of features (n, ..., ., .) is that of frequencies, the other of the last two being time; None for raw
    waves (n, T). Raises ValueError where the sizes do not say."""
    if features.ndim == 2:
        return None
    bands = getattr(feature_extractor, "num_mel_bins", None) or feature_extractor.feature_size
    for fits in (lambda size: size == bands, lambda size: size % bands == 0):  # stacked frames have a multiple
        found = [axis for axis in (-2, -1) if fits(features.shape[axis])]
        if len(found) == 1:
            return found[0]
    raise ValueError(
        f"audio_augmentation: which axis of {type(feature_extractor).__name__}'s {tuple(features.shape)} holds its "
        f"{bands} bands of frequency is not certain"
    )


def hide_parts(
    feature_extractor: Any,
    features: torch.Tensor,
    held: torch.Tensor,
    augmentation: SoundAugmentation,
    rngs: Sequence[np.random.Generator],
) -> torch.Tensor:
    """Features (n, ...) of n clips, parts of each hidden by its own random numbers.

    held: which of its time holds sound, bool (n, T), or which share of it, float64 (n,). Raises ValueError where the
    sizes do not say which axis is time.
    """
    axis = _frequency_axis(feature_extractor, features)
    seen = features[..., None] if axis is None else features.transpose(-2, -1) if axis == -2 else features
    if held.ndim == 1:
        held = torch.arange(seen.shape[-2]) < (held[:, None] * seen.shape[-2] - 1e-9).ceil()
    changed = torch.stack([augmentation(*one) for one in zip(seen, held, rngs, strict=True)])
    return changed[..., 0] if axis is None else changed.transpose(-2, -1) if axis == -2 else changed
