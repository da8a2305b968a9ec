"""From the channels of a sound to one, by the places of their speakers.

Left and right are mixed as Recommendation ITU-R BS.775 makes two channels of five, and the mean of these two is the
one channel: L' = L + C / sqrt(2) + Ls / sqrt(2), R' = R + C / sqrt(2) + Rs / sqrt(2), mono = (L' + R') / 2. The low
frequency channel is left out. Of two channels that is their mean. Nothing is scaled down to keep a loud sum below 1.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..images.limits import MediaDecodeError

HALF, SIDE = 0.5, 0.5**1.5
WEIGHTS = {"FL": HALF, "FR": HALF, "FLC": HALF, "FRC": HALF, "DL": HALF, "DR": HALF, "FC": 0.5**0.5, "LFE": 0.0,
           "LFE2": 0.0, "BC": HALF, "TC": HALF, "TFC": HALF, "TBC": HALF, "BFC": HALF}  # fmt: skip
# The bits of a channel mask (WAVEFORMATEXTENSIBLE), and PyAV's names of speakers.
SPEAKERS = "FL FR FC LFE BL BR FLC FRC BC SL SR TC TFL TFC TFR TBL TBC TBR".split()
# The order of n channels in FLAC (RFC 9639, 9.1.3), and of the same ones in WAV files and in most arrays.
IN_ORDER = {
    names.count(" ") + 1: tuple(names.split())
    for names in (
        "FC", "FL FR", "FL FR FC", "FL FR BL BR", "FL FR FC BL BR", "FL FR FC LFE BL BR", "FL FR FC LFE BC SL SR",
        "FL FR FC LFE BL BR SL SR",
    )
}  # fmt: skip
# The order in OGG (Vorbis I specification, 4.3.9; RFC 7845, 5.1.1.2).
IN_OGG = {
    names.count(" ") + 1: tuple(names.split())
    for names in (
        "FC", "FL FR", "FL FC FR", "FL FR BL BR", "FL FC FR BL BR", "FL FC FR BL BR LFE", "FL FC FR SL SR BC LFE",
        "FL FC FR SL SR BL BR LFE",
    )
}  # fmt: skip
# Tags of layouts in CAF and AIFF files (Apple's CoreAudioTypes), the number of channels in their lower half.
TAGGED = {
    101: "FL FR", 108: "FL FR BL BR", 113: "FL FR FC", 114: "FC FL FR", 115: "FL FR FC BC", 116: "FC FL FR BC",
    117: "FL FR FC BL BR", 118: "FL FR BL BR FC", 119: "FL FC FR BL BR", 120: "FC FL FR BL BR",
    121: "FL FR FC LFE BL BR", 122: "FL FR BL BR FC LFE", 123: "FL FC FR BL BR LFE", 124: "FC FL FR BL BR LFE",
    125: "FL FR FC LFE BL BR BC", 126: "FL FR FC LFE BL BR FLC FRC", 127: "FC FLC FRC FL FR BL BR LFE",
    128: "FL FR FC LFE SL SR BL BR", 133: "FL FR LFE",
}  # fmt: skip


def mix_of(speakers: Sequence[str] | None, channels: int) -> np.ndarray:
    """float32 (channels,), the weight of each channel in the mix. speakers: None if unknown: then those of IN_ORDER.
    Raises MediaDecodeError if there are none for so many channels."""
    if speakers is None or len(speakers) != channels or not set(speakers) & {*SPEAKERS, *WEIGHTS}:
        if channels not in IN_ORDER:
            raise MediaDecodeError(
                f"it has {channels} channels without speakers: accepted are up to {max(IN_ORDER)} "
                "or a layout in the file"
            )
        speakers = IN_ORDER[channels]
    weights = np.array([WEIGHTS.get(name, SIDE) for name in speakers])
    weights = weights if weights.any() else np.full(channels, 1 / channels)
    return (weights / min(1.0, weights.sum())).astype(np.float32)


def mixed(channels: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """(samples,) of (channels, samples)."""
    if len(mix) == 1:
        return channels[0]
    with np.errstate(all="ignore"):  # Inf and NaN are looked for in the end
        return mix @ channels


def flac_speakers(file: Any, channels: int) -> tuple[str, ...] | None:
    """Those that a comment in a FLAC file names by their mask. The place of `file` is kept."""
    place = file.tell()
    file.seek(0)
    found = re.search(rb"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x([0-9a-fA-F]{1,8})", file.read(1 << 16))
    file.seek(place)
    return of_mask(int(found[1], 16), channels) if found else None


def speakers_of_mask(format_chunk: bytes, order: Literal["little", "big"]) -> tuple[str, ...] | None:
    """Of WAV's format chunk; None where its kind has no mask, or the mask does not say it of every channel."""
    tag, channels = (int.from_bytes(format_chunk[at : at + 2], order) for at in (0, 2))
    is_extensible = tag == 0xFFFE and len(format_chunk) >= 24
    return of_mask(int.from_bytes(format_chunk[20:24], order), channels) if is_extensible else None


def of_mask(mask: int, channels: int) -> tuple[str, ...] | None:
    """The speakers of a channel mask, in the order of its bits."""
    names = tuple(name for bit, name in enumerate(SPEAKERS) if mask >> bit & 1)
    return names if len(names) == channels and mask < 1 << len(SPEAKERS) else None


def speakers_of_chunk(chunk: bytes) -> tuple[str, ...] | None:
    """Of the layout chunk of a CAF or AIFF file."""
    tag, mask = int.from_bytes(chunk[:4], "big"), int.from_bytes(chunk[4:8], "big")
    if tag == 0x1_0000:
        return of_mask(mask, mask.bit_count())
    names = TAGGED.get(tag >> 16)
    return tuple(names.split()) if names else None
