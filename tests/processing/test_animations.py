"""Films as they are shown: mirrored and turned ones, pixels that are not square, animations by their times."""

import io
import itertools
import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from mm import MediaDecodeError
from mm.processing.images.load import load_image
from mm.processing.videos.load import load_video

ONE = 0x10000
# Display matrices (a, b, c, d) of a film whose corners are red, green, blue, yellow, and the corners as shown.
SHOWN = {
    (1, 0, 0, 1): "RGBY", (0, 1, -1, 0): "BRYG", (-1, 0, 0, -1): "YBGR", (0, -1, 1, 0): "GYRB",
    (-1, 0, 0, 1): "GRYB", (1, 0, 0, -1): "BYRG", (0, 1, 1, 0): "RBGY", (0, -1, -1, 0): "YGBR",
}  # fmt: skip
LETTERS: dict[tuple[int, ...], str] = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (1, 1, 0): "Y"}


def corners_film(kind="mp4", codec="mpeg4", aspect=None) -> bytes:
    buffer = io.BytesIO()
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48], picture[:32, 48:], picture[32:, :48], picture[32:, 48:] = (
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0),
    )  # fmt: skip
    with av.open(buffer, "w", format=kind) as out:
        stream: Any = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 2_000_000
        if aspect:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect.replace(":", "/"))
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return buffer.getvalue()


def with_matrix(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """The MP4 with that display matrix in its track header."""
    place = data.index(b"tkhd") + 44
    a, b, c, d = (ONE * value for value in matrix)
    return data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :]


def corners(picture: Image.Image) -> str:
    width, height = picture.size
    places = [(8, 8), (width - 9, 8), (8, height - 9), (width - 9, height - 9)]
    pixels = np.asarray(picture) > 128
    return "".join(LETTERS[tuple(int(value) for value in pixels[y, x])] for x, y in places)


@pytest.mark.parametrize(("matrix", "expected"), SHOWN.items())
def test_films_are_turned_and_mirrored_as_their_display_matrix_says(matrix, expected):
    frame = load_video(with_matrix(corners_film(), matrix), num_frames=1)[0]
    assert corners(frame) == expected
    assert frame.size == ((96, 64) if matrix[0] else (64, 96))


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
@pytest.mark.parametrize(
    ("aspect", "size"), [("2:1", (192, 64)), ("1:2", (96, 128)), ("64:45", (137, 64)), ("1:1", (96, 64))]
)
def test_pixels_of_films_become_square(kind, aspect, size):
    data = corners_film(kind, aspect=aspect)
    frame = load_video(data, num_frames=1)[0]
    assert frame.size == size and corners(frame) == "RGBY"
    with pytest.raises(MediaDecodeError, match=f"it is {size[0]} x {size[1]}, .*max_pixels={size[0] * size[1] - 1}"):
        load_video(data, num_frames=1, max_pixels=size[0] * size[1] - 1)


def test_a_turned_film_has_square_pixels_and_a_senseless_aspect_is_left_aside():
    turned = load_video(with_matrix(corners_film(aspect="2:1"), (0, 1, 1, 0)), num_frames=1)[0]
    assert turned.size == (64, 192) and corners(turned) == "RBGY"
    assert load_video(corners_film(aspect="200:1"), num_frames=1)[0].size == (96, 64)
    assert load_video(corners_film(aspect="201:200"), num_frames=1)[0].size == (96, 64)


# ------------------------------------------------------------------------------------------------------ animations


LEVELS = [10, 40, 70, 100, 130]
KINDS = [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("AVIF", {"quality": 100})]


def animation(kind: str, frames: list[Image.Image], duration: Any = 100, **options: Any) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=duration, **options)
    return buffer.getvalue()


def shown(frames: list[Image.Image]) -> list[int]:
    return [int(np.argmin(np.abs(np.array(LEVELS) - np.asarray(frame)[4, 4, 0]))) for frame in frames]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_uniform_means_time_for_animations_too(kind, options):
    durations = [9100, 100, 100, 100, 600]  # 10 seconds
    data = animation(kind, [Image.new("RGB", (16, 16), (level,) * 3) for level in LEVELS], durations, **options)
    assert shown(load_video(data, num_frames=1)) == [0]
    assert shown(load_video(data, num_frames=2)) == [0]
    assert shown(load_video(data, num_frames=8)) == [0, 3]  # 9.375 s
    assert shown(load_video(data, num_frames=10)) == [0, 4]
    assert shown(load_video(data, num_frames=4, frame_sampling=1000.0)) == [0]  # falls back to uniform
    assert shown(load_video(data, num_frames=2, frame_sampling="keyframes")) == [1, 3]
    moved = load_video(data, num_frames=2, frame_jitter=1.0, rng=np.random.default_rng(0))
    assert shown(moved)[0] == 0


def test_the_picture_of_an_animated_png_for_old_viewers_is_no_frame_of_it():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    frames = [Image.new("RGB", (16, 16), (9, 9, 9)), *(Image.new("RGB", (16, 16), colour) for colour in colours)]
    data = animation("PNG", frames, default_image=True)
    for sampling in ("uniform", "keyframes", 10.0):
        found = load_video(data, num_frames=8, frame_sampling=sampling)
        assert [frame.getpixel((4, 4)) for frame in found] == colours
    assert load_video(data, num_frames=1)[0].getpixel((4, 4)) == colours[1]
    assert load_image(data).getpixel((4, 4)) == (9, 9, 9)
    lone = animation("PNG", frames[:2], default_image=True)
    assert [frame.getpixel((4, 4)) for frame in load_video(lone)] == [colours[0]]


def test_transparent_first_frames_lie_on_the_background_and_not_on_the_picture_for_old_viewers():
    clear = Image.new("RGBA", (16, 16))
    clear.paste((255, 0, 0, 255), (0, 0, 8, 8))
    other = Image.new("RGBA", (16, 16), (0, 0, 255, 255))
    data = animation("PNG", [Image.new("RGBA", (16, 16), (9, 9, 9, 255)), clear, other], default_image=True, blend=1)
    first = load_video(data, num_frames=2)[0]
    assert first.getpixel((4, 4)) == (255, 0, 0) and first.getpixel((12, 12)) == (255, 255, 255)


@pytest.mark.parametrize("disposal", list(itertools.product(range(4), repeat=3)))
def test_parts_of_gifs_are_put_back_as_another_reader_puts_them_back(disposal):
    frames = []
    for number, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]):
        picture = Image.new("RGB", (32, 32), (200, 200, 200))
        picture.paste(colour, (8 * number, 0, 8 * number + 8, 8))
        frames.append(picture)
    data = animation("GIF", frames, disposal=[*disposal, 1])
    with av.open(io.BytesIO(data), "r", format="gif") as container:
        expected = []
        for frame in container.decode(video=0):
            rgba = frame.to_ndarray(format="rgba").astype(float)
            share = rgba[..., 3:] / 255
            expected.append(rgba[..., :3] * share + 255 * (1 - share))
    found = load_video(data, num_frames=4)
    assert len(found) == 4
    assert all(np.abs(np.asarray(a) - b).max() <= 1 for a, b in zip(found, expected, strict=True))
