"""Reading videos: a few frames of any length of film, found by seeking, as upright RGB pictures.

    path | bytes | file object ─┬─ PyAV: seek to the keyframe before each time, decode up to it, no further
                                └─ animated GIF, WebP, PNG, AVIF: Pillow
    array | list of frames ────── each frame as `load_image` reads it

PyAV (the extra `video`) is imported when a film is read.
"""

import math
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..images.colours import Colour, rgb_colour
from ..images.limits import DECODER_FAULTS, MediaDecodeError, PixelBudget, check_pixels, decoding
from ..images.load import is_frames, load_image
from ..images.odd_files import opened_picture
from ..images.sources import opened
from ..images.whole_files import check_whole
from .animations import animation_frames
from .sampling import frame_shifts, sample_times, spread

CONTAINERS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "ogg", "flv")
CODECS = (
    "h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "libvpx", "libvpx-vp9", "mpeg4", "msmpeg4v3", "mpeg1video",
    "mpeg2video", "mjpeg", "theora", "h263", "flv", "wmv2", "ffv1", "prores", "png",
)  # fmt: skip
ANIMATIONS = ("GIF", "WEBP", "PNG", "AVIF")
MAX_SECONDS = 6 * 3600.0
MAX_FRAME_PIXELS = 16_000_000
MAX_VIDEO_BYTES = 8_000_000_000
# Frames decoded on the way to those that are taken, for each of them.
MAX_DECODED = 600
# A target this near, in seconds, is reached by decoding on rather than by seeking.
NEAR = 1.0
UNTOLD_FRAMES = 1 << 30  # in AVI files that were written as a stream
BACK = (0.0, 2.0, 10.0, math.inf)
# What a display matrix (a, b, c, d) does to a picture: the pixel (x, y) is shown at (a x + c y, b x + d y).
SHOWN = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
}
# Pixels wider or higher than this are a fault of the file; those within a hundredth of square are square.
MAX_PIXEL_ASPECT = 10.0


def load_video(
    source: Any,
    *,
    num_frames: int = 8,
    frame_sampling: str | float = "uniform",
    max_seconds: float = MAX_SECONDS,
    max_pixels: int = MAX_FRAME_PIXELS,
    background: Colour = "white",
    allow_urls: bool = False,
    budget: PixelBudget | None = None,
    load: Callable[..., Image.Image] = load_image,
    frame_jitter: float = 0.0,
    rng: np.random.Generator | None = None,
    **options: Any,
) -> list[Image.Image]:
    """At most `num_frames` frames of one video as upright RGB pictures, in the order of time, none twice.

    Args:
        source: path, bytes, binary file object, data URL; a list of pictures, or an array (F, H, W[, C]) or
            (F, C, H, W). Lists and arrays have no times: if there are more than num_frames, an even choice is taken.
        num_frames, frame_sampling: "uniform", "keyframes", or frames per second (`sample_times`).
        max_seconds, max_pixels: largest length of the video and size of a frame, checked before decoding. background:
        shows through transparent pixels of animations and of given frames.
        load: reads frames that are given one by one, with `options`.
        budget: pixels that are left for all frames of a call.
        frame_jitter, rng: with an rng each frame is taken up to half of this share earlier or later, of the time (or
            of the frames, the keyframes) from one to the next; their order stays. Without an rng nothing moves.

    Raises:
        MediaDecodeError: broken, of a container or codec not accepted, too long or large, without any picture.
        MediaNotFoundError: no file. ValueError, TypeError: another source. ImportError: no extra `video`.
    """
    shifts = frame_shifts(num_frames, frame_jitter, rng)
    if is_frames(source):
        frames = [source[number] for number in spread(len(source), num_frames, shifts)]
        if not frames:
            raise ValueError("the video has no frames")
        return [load(frame, budget=budget, **({"background": background} | options)) for frame in frames]
    limits = {"max_pixels": max_pixels, "budget": budget}
    with opened(source, "video", MAX_VIDEO_BYTES, allow_urls) as (file, name):
        with decoding(name):
            animation = _is_animation(file)
            check_whole(file)
        if animation:
            with decoding(name, ANIMATIONS) as known, opened_picture(file, ANIMATIONS) as image:
                known["format"] = image.format
                return animation_frames(image, frame_sampling, shifts, rgb_colour(background), **limits)
        av = _av()
        with decoding(name, (*CONTAINERS, *ANIMATIONS), (*DECODER_FAULTS, av.FFmpegError)) as known:
            allowed = {"format_whitelist": ",".join(CONTAINERS), "codec_whitelist": ",".join(CODECS)}
            with av.open(file, "r", options=allowed, metadata_errors="ignore") as container:
                known["format"] = container.format.name
                return _Film(container, max_seconds, num_frames, **limits).frames(frame_sampling, shifts)


def given_frames(source: Any, **options: Any) -> list[Image.Image]:
    """Every frame of a video that is given as its frames. Raises ValueError for a file, whose frames are sampled."""
    if not is_frames(source):
        raise ValueError(
            "do_sample_frames=False takes videos that are given as their frames, a list of pictures or an array; the "
            "frames of files are always sampled: raise num_frames instead"
        )
    return load_video(source, num_frames=max(1, len(source)), **options)


def video_tensors(
    videos: list[list[list[Image.Image] | None]], pixels_of: Callable[[list[Image.Image]], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Videos nested by sample as pixel_values_videos float32 (B, F, C, H, W), where each sample has just one; else
    (B, N, F, C, H, W). With them video_attention_mask, bool (B[, N], F), unless no frame is masked.

    Args:
        videos: frames, or None for a video that cannot be read. pixels_of: makes (n, C, H, W) of n pictures.
    """
    pixels = pixels_of([frame for sample in videos for video in sample for frame in video or []])
    slots, length = max(map(len, videos)), max(len(video or []) for sample in videos for video in sample)
    mask = torch.zeros(len(videos), slots, length, dtype=torch.bool)
    for row, sample in enumerate(videos):
        for slot, video in enumerate(sample):
            mask[row, slot, : len(video or [])] = True
    slotted = pixels.new_zeros(*mask.shape, *pixels.shape[1:])
    slotted[mask] = pixels
    if slots == 1 and all(sample and sample[0] is not None for sample in videos):
        slotted, mask = slotted[:, 0], mask[:, 0]
    return {"pixel_values_videos": slotted} | ({} if mask.all() else {"video_attention_mask": mask})


class _Film:
    """The picture stream of an open container."""

    def __init__(self, container: Any, max_seconds: float, num_frames: int, max_pixels: int, budget: Any):
        streams = container.streams.video
        if not streams:
            raise MediaDecodeError("it has no video stream")
        self.container, self.stream = container, streams[0]
        self.max_pixels, self.budget = max_pixels, budget
        codec = self.stream.codec_context
        if codec is None or codec.codec.name not in CODECS:
            raise MediaDecodeError(f"its codec {codec and codec.codec.name} is not accepted")
        codec.thread_count = 1
        check_pixels(codec.width, codec.height, max_pixels)
        self.start = float((self.stream.start_time or 0) * self.stream.time_base)
        self.seconds = self._length()
        if self.seconds > max_seconds:
            raise MediaDecodeError(f"it lasts {self.seconds:.1f} s; max_seconds={max_seconds} allows no more")
        self.left = MAX_DECODED * num_frames
        self.decoder: Iterator[Any] = iter(())
        self.shown: Any = None  # the last frame taken from the decoder, and the one after it
        self.next: Any = None

    def frames(self, frame_sampling: str | float, shifts: list[float]) -> list[Image.Image]:
        """A frame for each shift at most, none twice."""
        if frame_sampling == "keyframes":
            found = self._keyframes()
            frames = (found[number]() for number in spread(len(found), len(shifts), shifts))
        else:
            times = sample_times(self.seconds, len(shifts), frame_sampling, shifts)
            frames = (self._at(self.start + time) for time in times)
        taken = {}
        for frame in frames:
            if frame.pts not in taken:
                taken[frame.pts] = self._picture(frame)
        return list(taken.values())

    def _length(self) -> float:
        """Seconds, by the stream or else its container; by the packets if both are missing or only estimates."""
        streamed = self.container.format.name == "avi" and self.stream.frames == UNTOLD_FRAMES
        if self.container.format.name != "mpeg" and not streamed:
            if self.stream.duration:
                return float(self.stream.duration * self.stream.time_base)
            if self.container.duration:
                return self.container.duration / 1e6
        packets = [packet for packet in self.container.demux(self.stream) if packet.pts is not None]
        ends = [packet.pts + (packet.duration or 0) for packet in packets]
        ticks = max(ends) - min(packet.pts for packet in packets) if packets else 0
        return float(ticks * self.stream.time_base)

    def _keyframes(self) -> list[Callable[[], Any]]:
        """For each keyframe a call that decodes it; found in the index of the file if it is complete, otherwise by its
        packets, without decoding."""
        entries, base = self.stream.index_entries, self.stream.time_base
        find, ticks = partial(self._seek, forward=True), []  # an index has decoding times, before those of showing
        if 0 < self.stream.frames <= len(entries):
            ticks = [entry.timestamp for entry in entries if entry.is_keyframe and not entry.is_discard]
        if not ticks:
            self.container.seek(0)
            packets = self.container.demux(self.stream)
            find, ticks = self._at, [p.pts for p in packets if p.is_keyframe and p.pts is not None]
        if not ticks:
            raise MediaDecodeError("it has no keyframe")
        return [partial(find, float(tick * base)) for tick in sorted(ticks)]

    def _at(self, time: float) -> Any:
        """The frame that is shown at `time`: the last one that starts by then."""
        late = time + 1e-6
        if self.shown is None or self.shown.time > late or time - self.shown.time > NEAR:
            for back in BACK:  # containers without an index are sought by guesses, which may overshoot
                if self._seek(time - back).time <= late:
                    break
        while self.next is not None and self.next.time <= late:
            self.shown, self.next = self.next, self._decode()
        return self.shown

    def _seek(self, time: float, forward: bool = False) -> Any:
        """The first frame from the keyframe at or before `time`; forward: at or after it. From the start if no
        keyframe is found."""
        for place in (time, -math.inf):
            if place < self.start:
                self.container.seek(0)
            else:
                self.container.seek(round(place / self.stream.time_base), stream=self.stream, backward=not forward)
            self.decoder = self.container.decode(self.stream)
            first = self._decode()
            if first is not None:
                self.shown, self.next = first, self._decode()
                return first
        raise MediaDecodeError("no frame of it can be decoded")

    def _decode(self) -> Any:
        """The next frame with a time, None at the end."""
        for frame in self.decoder:
            self.left -= 1
            if self.left < 0:
                raise MediaDecodeError("its keyframes are too far apart: too much would have to be decoded")
            if frame.pts is not None:
                return frame
        return None

    def _picture(self, frame: Any) -> Image.Image:
        """A frame as it is shown: its pixels made square, turned and mirrored by the display matrix."""
        size = _shown_size(frame.width, frame.height, self.stream.sample_aspect_ratio)
        check_pixels(*size, self.max_pixels, self.budget)
        picture, turn = frame.to_image(), _turn(frame)
        picture = picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)
        return picture if turn is None else picture.transpose(turn)


def _shown_size(width: int, height: int, pixel_aspect: Any) -> tuple[int, int]:
    """(width, height) in square pixels: the side is lengthened along which pixels are long."""
    aspect = float(pixel_aspect or 1)
    if abs(aspect - 1) <= 0.01 or not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def _turn(frame: Any) -> Image.Transpose | None:
    """What puts a frame as its display matrix shows it; None for upright ones and for angles that are not quarter
    turns."""
    matrix = next((entry for entry in frame.side_data if entry.type.name == "DISPLAYMATRIX"), None)
    if matrix is None or len(bytes(matrix)) < 36:
        return None
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    largest = max(map(abs, (a, b, c, d)))
    turned = [round(value / largest) if largest else 0 for value in (a, b, c, d)]
    return SHOWN.get((turned[0], turned[1], turned[2], turned[3]))


def _is_animation(file: Any) -> bool:
    """Whether a file starts like a picture of ANIMATIONS; its position does not change."""
    place = file.tell()
    head = file.read(16)
    file.seek(place)
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return webp or head[:4] == b"GIF8" or head[:4] == b"\x89PNG" or head[4:12] in (b"ftypavif", b"ftypavis")


def _av() -> Any:
    try:
        import av
    except ImportError as fault:
        raise ImportError("PyAV is needed for video files: pip install '.[video]'") from fault
    return av
