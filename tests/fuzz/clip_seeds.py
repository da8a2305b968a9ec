"""Short good sounds and films in the formats that are accepted, for `mutations.mutated` to break."""

import io
import random
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

SOUNDS = [
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "PCM_24"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"),
    ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"),
]  # fmt: skip
TRACKS = [("ipod", "aac"), ("adts", "aac"), ("mp4", "alac"), ("matroska", "flac"), ("webm", "libopus")]
FILMS = [
    ("mp4", "libx264"), ("mov", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx-vp9"), ("webm", "libvpx"),
    ("avi", "mpeg4"), ("avi", "ffv1"), ("mpegts", "mpeg2video"), ("flv", "flv"), ("mpeg", "mpeg1video"),
    ("mp4", "libx265"),
]  # fmt: skip


def sound_seeds() -> list[bytes]:
    samples = (0.3 * np.sin(np.arange(2400)[:, None] / np.array([7, 11]))).astype(np.float32)
    seeds = []
    for kind, subtype in SOUNDS:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples[:, :1] if subtype == "ULAW" else samples, 8000, format=kind, subtype=subtype)
        seeds.append(buffer.getvalue())
    return seeds + [_track(container, codec, samples) for container, codec in TRACKS]


def _track(container: str, codec: str, samples: np.ndarray) -> bytes:
    buffer, rate = io.BytesIO(), 48000 if codec == "libopus" else 8000
    with av.open(buffer, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.tile(samples.T, rate // 8000).copy(), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def film_seeds() -> list[bytes]:
    rng = random.Random(0)
    frames = [Image.frombytes("RGB", (32, 24), rng.randbytes(32 * 24 * 3)).resize((64, 48)) for _ in range(12)]
    seeds = []
    for kind in ("GIF", "WEBP", "PNG"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:6], duration=100)
        seeds.append(buffer.getvalue())
    return seeds + [_film(container, codec, frames) for container, codec in FILMS]


def _film(container: str, codec: str, frames: list[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream: Any = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_image(frame)))
        out.mux(stream.encode())
    return buffer.getvalue()
