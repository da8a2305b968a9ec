"""Sound files to samples, by two decoders. Limits are checked in the header and again while reading.

    MP4 family (m4a, mov, 3gp), Matroska, WebM, AAC ────── PyAV (the extra `video`) ──────┐
    WAV, FLAC, OGG, MP3, AIFF, AU, CAF, W64 ────────────── soundfile (the extra `audio`) ─┴─ mix of the channels

Both are imported when a file of theirs is read. A file that ends before the length in its headers raises an error.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..images.limits import DECODER_FAULTS, MediaDecodeError, decoding
from ..images.whole_files import check_whole, cut_off, xing_header
from .headers import Patched, SoundHeader, read_header
from .layouts import IN_OGG, flac_speakers, mix_of, mixed

logger = logging.getLogger(__name__)

FORMATS = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64", "WAVEX")
CONTAINERS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "aac", "flac")
CODECS = (
    "aac", "alac", "mp3", "mp3float", "opus", "libopus", "vorbis", "flac", "pcm_u8", "pcm_s16le", "pcm_s16be",
    "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be",
)  # fmt: skip
MAX_SAMPLES = 60_000_000
MAX_CHANNELS = 16
RATES = (1_000, 384_000)
BLOCK = 1 << 16
MP3_SLACK = 2 * 1152  # encoders count a frame more or less
MANY_PLANES = 8
PADDING = 2 * 2048  # samples that AAC may have after the end stated by an MP4 file


def read_sound(file: Any, name: str, max_seconds: float) -> tuple[np.ndarray, int]:
    """(samples,) of an open file, and their rate. Raises as `sound_stretches`."""
    found, rate, length = [np.zeros(0, np.float32)], 0, 0
    for stretch, rate in sound_stretches(file, name, max_seconds):
        length += len(stretch)
        with decoding(name):
            check_sound(length, rate, 1, max_seconds)
        found.append(stretch)
    return np.concatenate(found), rate


def sound_stretches(
    file: Any, name: str, max_seconds: float, max_samples: float = MAX_SAMPLES
) -> Iterator[tuple[np.ndarray, int]]:
    """(samples,) of an open file, its channels mixed to one (`sound_layouts.py`), and their rate, as it is read; at
    least one.

    Raises MediaDecodeError for a file that is broken, of another format or beyond the limits; ImportError without the
    extra.
    """
    with decoding(name):
        container = _is_container(file)
        check_whole(file)
        header, has_length = (None, False) if container else (read_header(file), xing_header(file) is not None)
    if container:
        av = _av()
        with decoding(name, (*CONTAINERS, *FORMATS), (*DECODER_FAULTS, av.FFmpegError)) as known:
            allowed = {"format_whitelist": ",".join(CONTAINERS), "codec_whitelist": ",".join(CODECS)}
            with av.open(file, "r", options=allowed, metadata_errors="ignore") as opened:
                known["format"] = opened.format.name
                yield from _of_container(opened, max_seconds, max_samples)
            return
    soundfile = module("soundfile")
    with decoding(name, (*FORMATS, *CONTAINERS), (*DECODER_FAULTS, soundfile.SoundFileError)) as known:
        if header is not None and header.was_left:
            logger.warning("the header of %s says that it has no samples; those that follow it are read", name)
        if header is not None and (header.was_left or header.unknown):
            file = Patched(file, header.sizes)
        with _opened(soundfile, file) as sound:
            known["format"] = sound.format
            if sound.format not in FORMATS:
                raise MediaDecodeError(f"its format {sound.format} is not accepted")
            check_sound(sound.frames, sound.samplerate, sound.channels, max_seconds, max_samples)
            if header is not None:
                header.check(sound.frames / sound.samplerate)
            mix = mix_of(_speakers(sound, header, file), sound.channels)
            length = 0
            yield np.zeros(0, np.float32), sound.samplerate
            for stretch in _blocks(sound, mix):
                length += len(stretch)
                yield stretch, sound.samplerate
            if has_length and sound.frames - length > MP3_SLACK:
                raise cut_off(sound.frames / sound.samplerate, length / sound.samplerate, "s")


def check_sound(frames: float, rate: int, channels: int, max_seconds: float, max_samples: float = MAX_SAMPLES) -> None:
    """Raises MediaDecodeError for a sound that is too long, or has no sensible rate."""
    if not RATES[0] <= rate <= RATES[1]:
        raise MediaDecodeError(f"its sampling rate is {rate}; accepted are {RATES[0]}..{RATES[1]}")
    if channels > MAX_CHANNELS:
        raise MediaDecodeError(f"it has {channels} channels; accepted are {MAX_CHANNELS} at most")
    if frames / rate > max_seconds:
        raise MediaDecodeError(f"it lasts {frames / rate:.1f} s; max_seconds={max_seconds} allows no more")
    if frames > max_samples:
        raise MediaDecodeError(f"it has {frames:.0f} samples, more than {max_samples}")


def in_full_scale(array: np.ndarray) -> np.ndarray:
    """float32 of samples in -1..1, floats unchanged; int16, int32 and uint8 by their range, as WAV files have them.
    Raises ValueError for other types."""
    full_scale = {"int16": 2.0**15, "int32": 2.0**31}.get(array.dtype.name)
    if full_scale:
        return (array / np.float64(full_scale)).astype(np.float32)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"sound arrays are floats in -1..1, int16, int32 or uint8; got {array.dtype}")
    return array.astype(np.float32)


def module(name: str) -> Any:
    """soundfile or soxr. Raises ImportError that names the extra."""
    try:
        return __import__(name)
    except ImportError as fault:
        raise ImportError(f"{name} is needed for this sound: pip install '.[audio]'") from fault


def _opened(soundfile: Any, file: Any) -> Any:
    try:
        return soundfile.SoundFile(file)
    except soundfile.LibsndfileError as fault:
        fault.prefix = ""  # it shows the file object
        raise


def _speakers(sound: Any, header: SoundHeader | None, file: Any) -> tuple[str, ...] | None:
    """The speakers of the channels, if the file or its format states them."""
    if sound.format == "OGG":
        return IN_OGG.get(sound.channels)
    if sound.format == "FLAC":
        return flac_speakers(file, sound.channels)
    return header and header.speakers


def _blocks(sound: Any, mix: np.ndarray) -> Iterator[np.ndarray]:
    """Stretches of an open SoundFile, (samples,) each."""
    while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
        yield mixed(block.T, mix)


def _of_container(container: Any, max_seconds: float, max_samples: float) -> Iterator[tuple[np.ndarray, int]]:
    """Stretches of the first stream of sound, and their rate."""
    streams = container.streams.audio
    if not streams:
        raise MediaDecodeError("it has no stream of sound")
    stream, codec = streams[0], streams[0].codec_context
    if codec is None or codec.codec.name not in CODECS:
        raise MediaDecodeError(f"its codec {codec and codec.codec.name} is not accepted")
    codec.thread_count = 1
    rate = codec.sample_rate
    told = float(stream.duration * stream.time_base) if stream.duration else 0.0
    check_sound(told * rate, rate, codec.channels, max_seconds, max_samples)

    def blocks() -> Iterator[np.ndarray]:
        for frame in _readable(container.decode(stream), rate, max_seconds):
            samples = frame.to_ndarray()  # (channels, samples), or (1, samples * channels)
            samples = samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T
            speakers = tuple(channel.name for channel in frame.layout.channels)
            yield mixed(in_full_scale(samples), mix_of(speakers, len(samples)))

    yield np.zeros(0, np.float32), rate
    length = 0
    for stretch in _without_padding(blocks(), _told_samples(container, told * rate)):
        length += len(stretch)
        check_sound(length, rate, 1, max_seconds, max_samples)
        yield stretch, rate


def _without_padding(blocks: Iterable[np.ndarray], last: int) -> Iterator[np.ndarray]:
    """Blocks joined to stretches of BLOCK samples, without what is beyond `last`, where it is no more than PADDING."""
    parts, after, held, place = [], [], 0, 0
    for block in blocks:
        before = max(0, last - place) if last > 0 else len(block)
        place += len(block)
        parts.append(block[:before])
        held += len(parts[-1])
        if before < len(block):  # an empty view would hold its block
            after.append(block[before:])
        if last > 0 and place > last + PADDING:  # more than padding: the sound goes on
            parts, held, after, last = [*parts, *after], held + sum(map(len, after)), [], 0
        if held >= BLOCK:
            yield np.concatenate(parts)
            parts, held = [], 0
    yield np.concatenate([np.zeros(0, np.float32), *parts])


def _readable(frames: Iterable[Any], rate: int, max_seconds: float) -> Iterator[Any]:
    """Decoded frames that may become arrays. PyAV 18.1 reads past the end of the planes where there are 8 or more, so
    those come interleaved, in one."""
    interleaved = None
    for frame in frames:
        channels = frame.layout.nb_channels
        if frame.sample_rate != rate:
            raise MediaDecodeError(f"its sampling rate changes from {rate} to {frame.sample_rate}")
        check_sound(0, rate, channels, max_seconds)
        if not frame.format.is_planar or channels < MANY_PLANES:
            yield frame
            continue
        if interleaved is None:
            options = {"format": frame.format.packed.name, "layout": frame.layout, "rate": rate}
            interleaved = _av().AudioResampler(**options)
        yield from interleaved.resample(frame)
    if interleaved is not None:
        yield from interleaved.resample(None)


def _told_samples(container: Any, told: float) -> int:
    """How many samples an MP4 file says it has without the padding at its end: by the note of iTunes, or by `told`,
    which is by its edit list; the padding at the start is left out by PyAV already. 0 for other files."""
    if not container.format.name.startswith("mov"):
        return 0
    note = container.metadata.get("iTunSMPB", "").split()
    try:
        return int(note[3], 16) if len(note) > 3 else round(told)
    except ValueError:
        return round(told)


def _is_container(file: Any) -> bool:
    """Whether a file starts like one of CONTAINERS; its position does not change."""
    place = file.tell()
    head = file.read(26)
    file.seek(place)
    boxes = head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    adts = head[:1] == b"\xff" and (head[1:2] or b"\xff")[0] & 0xF6 == 0xF0  # MP3 differs in its layer
    # FLAC that was saved as it came does not say how long it is, and soundfile then cannot read it
    streamed = head[:4] == b"fLaC" and len(head) == 26 and not (head[21] & 15 or any(head[22:]))
    return boxes or adts or streamed or head[:4] == b"\x1aE\xdf\xa3"


def _av() -> Any:
    try:
        import av
    except ImportError as fault:
        raise ImportError(
            "PyAV is needed for sounds in MP4 (m4a), Matroska, AAC and streamed FLAC files: pip install '.[video]'"
        ) from fault
    return av
