"""Reading sounds: any rate and any number of channels to clips of one channel at the rate of the feature extractor.

    path | bytes | file object ── soundfile, limits from the header ┐
    array | {"array", "sampling_rate"} ─────────────────────────────┴─ mean of channels ── soxr ── clips of one window

soundfile and soxr (the extra `audio`) are imported when a file is read, or another rate is made.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .limits import DECODER_FAULTS, MediaDecodeError, PixelBudget, decoding
from .sound_masks import SoundAugmentation, hide_parts
from .sources import opened

FORMATS = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64", "WAVEX")
MAX_SECONDS = 1800.0
MAX_SAMPLES = 60_000_000
MAX_CHANNELS = 16
RATES = (1_000, 384_000)
MAX_SOUND_BYTES = 512_000_000
BLOCK = 1 << 16
# Files of floats may go somewhat beyond full scale; 16-bit values given as floats go far beyond.
LOUDEST = 16.0


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
            (samples, channels): floats in -1..1, int16, int32 or uint8 as in WAV files.
        source_rate: of an array that does not come with its own.
        max_seconds: length allowed, checked before the samples are decoded.
        budget: not for sounds.

    Raises:
        MediaDecodeError: broken, of a format outside `FORMATS`, too long, empty, NaN. MediaNotFoundError: no file.
        ValueError, TypeError: an array without a rate, or of a shape, type or range not accepted.
        ImportError: the extra `audio` is not installed.
    """
    if isinstance(source, dict):
        source, source_rate = _of_dict(source, source_rate)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        samples, rate = _of_array(source), source_rate
        if rate is None:
            raise ValueError(
                'an array has no rate of its own: give sampling_rate=, or {"array": …, "sampling_rate": …}'
            )
        name = "the array"
        with decoding(name):
            _check_header(len(samples), rate, 1, max_seconds)
    else:
        with opened(source, "sound", MAX_SOUND_BYTES, allow_urls) as (file, name):
            samples, rate = _read(file, name, max_seconds)
    with decoding(name):
        if not len(samples):
            raise MediaDecodeError("it is empty: there are no samples")
        if not np.isfinite(samples).all():
            raise MediaDecodeError("it holds NaN or Inf")
        return _at_rate(samples, rate, sampling_rate)


def window_of(feature_extractor: Any) -> int | None:
    """Samples in the window that an audio tower reads, by its feature extractor; None where it reads any length."""
    for name in ("n_samples", "nb_max_samples"):  # Whisper's, CLAP's
        if getattr(feature_extractor, name, None):
            return int(getattr(feature_extractor, name))
    if hasattr(feature_extractor, "max_length") and hasattr(feature_extractor, "num_mel_bins"):  # AST: 10 ms a frame
        return feature_extractor.max_length * feature_extractor.sampling_rate // 100
    return None


def clips_of(samples: np.ndarray, window: int | None) -> list[np.ndarray]:
    """A sound cut into clips of `window` samples; the last one is what is left."""
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
    made = extractor(clips, **options)
    features = made[extractor.model_input_names[0]].float()
    if len(features) != len(clips):
        raise ValueError(
            f"{type(extractor).__name__} makes {extractor.model_input_names[0]} of shape {tuple(features.shape)} from "
            f"{len(clips)} clips; MMProcessor works with one entry per clip"
        )
    return features, None if window is not None or "attention_mask" not in made else made["attention_mask"].bool()


def _read(file: Any, name: str, max_seconds: float) -> tuple[np.ndarray, int]:
    """(samples,) of a file, the mean of its channels, and their rate."""
    soundfile = _module("soundfile")
    with decoding(name, FORMATS, (*DECODER_FAULTS, soundfile.SoundFileError)) as known:
        with soundfile.SoundFile(file) as sound:
            known["format"] = sound.format
            if sound.format not in FORMATS:
                raise MediaDecodeError(f"its format {sound.format} is not accepted")
            _check_header(sound.frames, sound.samplerate, sound.channels, max_seconds)
            blocks = []
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                with np.errstate(all="ignore"):  # Inf and NaN are looked for in the end
                    blocks.append(block.mean(1))
            samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
            return samples, sound.samplerate


def _check_header(frames: int, rate: int, channels: int, max_seconds: float) -> None:
    """Raises MediaDecodeError for a sound that is too long, or has no sensible rate."""
    if not RATES[0] <= rate <= RATES[1]:
        raise MediaDecodeError(f"its sampling rate is {rate}; accepted are {RATES[0]}..{RATES[1]}")
    if channels > MAX_CHANNELS:
        raise MediaDecodeError(f"it has {channels} channels; accepted are {MAX_CHANNELS} at most")
    if frames / rate > max_seconds:
        raise MediaDecodeError(f"it lasts {frames / rate:.1f} s; max_seconds={max_seconds} allows no more")
    if frames > MAX_SAMPLES:
        raise MediaDecodeError(f"it has {frames} samples, more than {MAX_SAMPLES}")


def _at_rate(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    if rate == wanted:
        return np.ascontiguousarray(samples, dtype=np.float32)
    resampled = _module("soxr").resample(samples.astype(np.float32), rate, wanted, quality="HQ")
    if not len(resampled):
        raise MediaDecodeError(f"it has {len(samples)} samples at {rate} a second, too few for {wanted} a second")
    return resampled


def _of_dict(source: dict[str, Any], source_rate: int | None) -> tuple[Any, int | None]:
    if source.get("array") is not None:
        return np.asarray(source["array"]), source.get("sampling_rate", source_rate)
    for key in ("bytes", "path"):
        if source.get(key) is not None:
            return source[key], None
    raise ValueError(f"a sound given as a dict has array and sampling_rate, or bytes, or path; got {sorted(source)}")


def _of_array(given: np.ndarray | torch.Tensor) -> np.ndarray:
    """float32 (samples,) in -1..1, the mean of the channels."""
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
        array = _as_floats(array).mean(short[0])
    if array.ndim > 2:
        raise ValueError(f"a sound array is (samples,), (channels, samples) or (samples, channels); got {array.shape}")
    return _as_floats(array.reshape(-1))


def _as_floats(array: np.ndarray) -> np.ndarray:
    full_scale = {"int16": 2.0**15, "int32": 2.0**31}.get(array.dtype.name)
    if full_scale:
        return (array / np.float64(full_scale)).astype(np.float32)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"sound arrays are floats in -1..1, int16, int32 or uint8; got {array.dtype}")
    loudest = np.abs(array).max(initial=0)
    if np.isfinite(loudest) and loudest > LOUDEST:
        raise ValueError(
            f"sounds of floats are in -1..1; got values up to {loudest:.4g}. Divide by 32768, or give int16"
        )
    return array.astype(np.float32)


def _module(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as fault:
        raise ImportError(f"{name} is needed for this sound: pip install 'mm-transformers[audio]'") from fault
