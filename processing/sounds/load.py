"""Reading sounds: any rate and any number of channels to clips of one channel at the rate of the feature extractor.

    path | bytes | file object ── soundfile or PyAV, limits first ──┐
    array | {"array", "sampling_rate"} ─────────────────────────────┴─ mean of channels ── soxr ── clips of one window

soxr (the extra `audio`) is imported when another rate is made; what reads files, by `sound_files.py`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..images.limits import MediaDecodeError, PixelBudget, decoding
from ..images.sources import opened
from ..videos.sampling import check_positive
from .files import MAX_CHANNELS, check_sound, in_full_scale, module, read_sound
from .masks import SoundAugmentation, hide_parts

MAX_SECONDS = 1800.0
MAX_SOUND_BYTES = 512_000_000
# Files of floats may go somewhat beyond full scale; 16-bit values given as floats go far beyond.
LOUDEST = 16.0
# Extractors of bands need 25 ms for a frame, those that join pairs of frames 10 ms more.
SHORTEST_SECONDS = 0.035

# Settings of extractors by which every feature would become NaN, infinite or the same, and whether they are positive.
_NUMBERS = {
    "sampling_rate": True,
    "mean": False,
    "std": True,
    "padding_value": False,
    "dither": False,
    "preemphasis": False,
}


def check_extractor(extractor: Any) -> None:
    """Raises ValueError for a feature extractor with a number that makes no sense."""
    for name, positive in _NUMBERS.items():
        value = getattr(extractor, name, None)  # of another library: which of these it has is what is asked
        if isinstance(value, (int, float)) and not (math.isfinite(value) and (value > 0 or not positive)):
            accepted = "finite numbers above 0" if positive else "finite numbers"
            raise ValueError(f"{type(extractor).__name__}: {name}={value!r}; accepted are {accepted}")


# What extractors call the mask of their frames.
_FRAME_MASKS = ("attention_mask", "padding_mask", "input_features_mask")


def load_sound(
    source: Any,
    sampling_rate: int,
    *,
    source_rate: int | None = None,
    max_seconds: float = MAX_SECONDS,
    allow_urls: bool = False,
    budget: PixelBudget | None = None,
) -> np.ndarray:
    """Read one sound as float32 (samples,), one channel, at `sampling_rate`.

    Args:
        source: path, bytes, binary file object, data URL; a dict with "array" and "sampling_rate", or with "path" or
            "bytes", as `datasets` gives them; or a numpy array or torch tensor, (samples,), (channels, samples) or
            (samples, channels) of one channel or two: floats in -1..1, int16, int32 or uint8 as in WAV files. More
            channels are read only from files, which state their speakers (`sound_layouts.py` says how they are mixed).
        source_rate: of an array that does not come with its own.
        max_seconds: length allowed, checked before the samples are decoded.
        budget: not for sounds.

    Raises:
        MediaDecodeError: broken, cut off, of a format that `sound_files.py` does not name, too long, empty, NaN.
        MediaNotFoundError: no file.
        ValueError, TypeError: an array without a rate, or of a shape, type, range or channels not accepted.
        ImportError: the extra `audio` (for m4a and the like: `video`) is not installed.
    """
    if isinstance(source, dict):
        source, source_rate = _of_dict(source, source_rate)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        samples, rate = _of_array(source), source_rate
        if rate is None:
            raise ValueError(
                'an array has no rate of its own: give sampling_rate=, or {"array": …, "sampling_rate": …}'
            )
        check_positive("sampling_rate", rate)
        name = "the array"
        with decoding(name):
            check_sound(len(samples), rate, 1, max_seconds)
    else:
        with opened(source, "sound", MAX_SOUND_BYTES, allow_urls) as (file, name):
            samples, rate = read_sound(file, name, max_seconds)
    with decoding(name):
        if not len(samples):
            raise MediaDecodeError("it is empty: there are no samples")
        if not np.isfinite(samples).all():
            raise MediaDecodeError("it holds NaN or Inf")
        if np.abs(samples).max() > LOUDEST:
            raise MediaDecodeError(f"it is {np.abs(samples).max():.3g} times as loud as full scale")
        return _at_rate(samples, rate, sampling_rate)


def lacks_rate(source: Any) -> bool:
    """Whether a sound is an array without a rate of its own."""
    if isinstance(source, dict) and source.get("array") is not None:
        return source.get("sampling_rate") is None
    return isinstance(source, (np.ndarray, torch.Tensor))


def window_of(feature_extractor: Any) -> int | None:
    """Samples in the window that an audio tower reads, by its feature extractor; None where it reads any length."""
    for name in ("n_samples", "nb_max_samples"):  # Whisper's, CLAP's
        if getattr(feature_extractor, name, None):
            return int(getattr(feature_extractor, name))
    if hasattr(feature_extractor, "max_length") and hasattr(feature_extractor, "num_mel_bins"):  # AST: 10 ms a frame
        return feature_extractor.max_length * feature_extractor.sampling_rate // 100
    return None


def clips_of(samples: np.ndarray, window: int | None) -> list[np.ndarray]:
    """A sound cut into clips of `window` samples; the last one is the rest."""
    if window is None or len(samples) <= window:
        return [samples]
    return [samples[start : start + window] for start in range(0, len(samples), window)]


def sound_tensors(
    feature_extractor: Any,
    sounds: list[list[np.ndarray | None]],
    augmentation: SoundAugmentation | None = None,
    rngs: Sequence[np.random.Generator] = (),
) -> dict[str, torch.Tensor]:
    """Sounds nested by sample as input_features float32 (B, A, ...), A clips of what the tower takes.

    With them input_features_mask, bool, unless all are real: (B, A), or (B, A, frames) where clips have no window and
    so their own lengths. None stands for a sound that cannot be read: one clip, masked. `augmentation` hides parts
    of each clip, by the random numbers of its sample.
    """
    window = window_of(feature_extractor)
    clips = [
        [clip for sound in sample for clip in ([None] if sound is None else clips_of(sound, window))]
        for sample in sounds
    ]
    present = [clip for sample in clips for clip in sample if clip is not None]
    features, frames = _features(feature_extractor, present, window)
    if augmentation is not None:
        own = [rngs[row] for row, sample in enumerate(clips) for clip in sample if clip is not None]
        shares = torch.tensor([len(clip) / window if window else 1.0 for clip in present], dtype=torch.float64)
        held = shares if frames is None else frames
        features = hide_parts(feature_extractor, features, held, augmentation, own)
    slots = max(len(sample) for sample in clips)
    mask = [[clip is not None for clip in sample] + [False] * (slots - len(sample)) for sample in clips]
    mask = torch.tensor(mask, dtype=torch.bool)
    slotted = features.new_zeros(*mask.shape, *features.shape[1:])
    slotted[mask] = features
    if frames is not None and not frames.all():
        by_frame = frames.new_zeros(*mask.shape, *frames.shape[1:])
        by_frame[mask] = frames
        return {"input_features": slotted, "input_features_mask": by_frame}
    return {"input_features": slotted} | ({} if mask.all() else {"input_features_mask": mask})


def _features(extractor: Any, clips: list[np.ndarray], window: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(n, ...) of n clips, and bool (n, frames) where they are padded to the longest."""
    options = {"sampling_rate": extractor.sampling_rate, "return_tensors": "pt"}
    if window is None:
        options |= {"padding": True, "return_attention_mask": True}
    made = extractor([long_enough(clip, extractor) for clip in clips], **options)
    features = of_silence(made[extractor.model_input_names[0]].float())
    if len(features) != len(clips):
        raise ValueError(
            f"{type(extractor).__name__} makes {extractor.model_input_names[0]} of shape {tuple(features.shape)} from "
            f"{len(clips)} clips; MMProcessor works with one entry per clip"
        )
    if window is not None:
        return features, None
    found = next((made[name] for name in _FRAME_MASKS if name in made), None)
    if found is None and len({len(clip) for clip in clips}) > 1:
        raise ValueError(
            f"{type(extractor).__name__} does not say which of its frames are padding, so sounds of unequal length "
            "cannot come in one batch; cut them to one length"
        )
    return features, None if found is None else found.bool()


def of_silence(features: torch.Tensor) -> torch.Tensor:
    """Features of a finite sound, 0 in a band that never changes: some extractors divide it by its deviation."""
    return features.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def long_enough(clip: np.ndarray, extractor: Any) -> np.ndarray:
    """A clip that makes at least one frame of bands: silence follows a shorter one. Raw waves do not change."""
    if not hasattr(extractor, "num_mel_bins") and getattr(extractor, "feature_size", 1) == 1:
        return clip
    shortest = math.ceil(SHORTEST_SECONDS * extractor.sampling_rate)
    return np.pad(clip, (0, max(0, shortest - len(clip))))


def _at_rate(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    if rate == wanted:
        return np.ascontiguousarray(samples, dtype=np.float32)
    resampled = module("soxr").resample(samples.astype(np.float32), rate, wanted, quality="HQ")
    if not len(resampled):
        raise MediaDecodeError(f"it has {len(samples)} samples at {rate} a second, too few for {wanted} a second")
    return resampled


def _of_dict(source: dict[str, Any], source_rate: int | None) -> tuple[Any, int | None]:
    if source.get("array") is not None:
        own = source.get("sampling_rate")
        return np.asarray(source["array"]), source_rate if own is None else own
    for key in ("bytes", "path"):
        if source.get(key) is not None:
            return source[key], None
    raise ValueError(f"a sound given as a dict has array and sampling_rate, or bytes, or path; got {sorted(source)}")


def _of_array(given: np.ndarray | torch.Tensor) -> np.ndarray:
    """float32 (samples,) in -1..1, the mean of one channel or two."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = (given.float() if given.dtype in (torch.bfloat16, torch.float16) else given).numpy()
    array: np.ndarray = given
    if array.ndim == 2 and array.size:
        short = [axis for axis in (0, 1) if array.shape[axis] <= MAX_CHANNELS]
        if len(short) != 1:
            raise ValueError(
                f"a sound array is (samples,), (channels, samples) or (samples, channels) with up to {MAX_CHANNELS} "
                f"channels; which of the two is not certain of shape {array.shape}"
            )
        if array.shape[short[0]] > 2:
            raise ValueError(
                f"an array of {array.shape[short[0]]} channels has no speakers: give one or two (such as "
                f"array.mean({short[0]}) for several microphones), or the file"
            )
        array = _as_floats(array).mean(short[0])
    if array.ndim not in (1, 2):
        raise ValueError(f"a sound array is (samples,), (channels, samples) or (samples, channels); got {array.shape}")
    return _as_floats(array.reshape(-1))


def _as_floats(array: np.ndarray) -> np.ndarray:
    floating = np.issubdtype(array.dtype, np.floating)
    loudest = np.abs(array).max(initial=0) if floating else 0
    if np.isfinite(loudest) and loudest > LOUDEST:
        raise ValueError(
            f"sounds of floats are in -1..1; got values up to {loudest:.4g}. Divide by 32768, or give int16"
        )
    return in_full_scale(array)
