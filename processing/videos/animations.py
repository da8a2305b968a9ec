"""Frames of an opened GIF, WebP, PNG or AVIF animation, taken by its times as those of a film are."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from PIL import Image

from ..images.colours import upright_rgb
from ..images.limits import MediaDecodeError, PixelBudget, check_pixels
from .sampling import sample_times, shown_at, spread

# Width x height x frames.
MAX_ANIMATION_PIXELS = 1_000_000_000
SHORTEST = 10.0  # milliseconds


def animation_frames(
    image: Any,
    frame_sampling: str | float,
    shifts: Sequence[float],
    colour: tuple[int, int, int],
    max_pixels: int,
    budget: PixelBudget | None,
) -> list[Image.Image]:
    """Frames of an open animation, or the one of a still picture; every frame counts as a keyframe."""
    check_pixels(image.width, image.height, max_pixels)
    first, count = _first(image), getattr(image, "n_frames", 1)
    if count * image.width * image.height > MAX_ANIMATION_PIXELS:
        raise MediaDecodeError(f"its {count} frames of {image.width} x {image.height} are too many to decode")
    if frame_sampling == "keyframes" or count - first == 1:
        numbers = spread(count - first, len(shifts), shifts)
    else:
        starts = list(accumulate((_seconds(image) for _ in _each(image, first, count)), initial=0.0))
        numbers = shown_at(starts[:-1], sample_times(starts[-1], len(shifts), frame_sampling, shifts))
    pictures = []
    for number in _each(image, first, first + max(numbers) + 1):
        if number - first in numbers:
            check_pixels(image.width, image.height, max_pixels, budget)
            pictures.append(upright_rgb(image.copy(), colour))
    return pictures


def _first(image: Any) -> int:
    """1 where an animated PNG begins with a picture that is only for viewers that know no animations."""
    return int(bool(image.format == "PNG" and getattr(image, "default_image", False) and image.n_frames > 1))


def _each(image: Any, first: int, end: int) -> Iterator[int]:
    """The numbers of the frames, the image standing at each in turn."""
    if first:
        image.seek(0)
        image.load()
        image.paste(0, (0, 0, *image.size))  # what a first frame with transparent pixels is laid on: nothing
    for number in range(first, end):
        if image.format == "GIF":
            image.disposal_method = 0  # Pillow hands that of a frame on to the next ones that have none
        image.seek(number)
        if image.format == "GIF" and end > 1:
            _prepare_canvas(image, number)
        yield number


def _prepare_canvas(image: Any, number: int) -> None:
    """An opaque first frame of a GIF with room for transparent places, which later ones may leave; and where the frame
    is to be taken away again there is the background, which Pillow forgets if what was there before is asked for."""
    if number == 0 and "transparency" not in image.info:
        image.load()
        if image.disposal_method >= 2:
            left, top, right, bottom = image.dispose_extent
            background = Image.new(image.mode, (right - left, bottom - top), image.info.get("background", 0))
            if image.mode == "P":
                background.putpalette(image.palette)
                background.load()  # Pillow 13 hands a palette on when pixels are asked for
            image.dispose = background.im
        image.im, image._mode = image.im.convert("RGBA"), "RGBA"
    if image.dispose is not None and image.mode == "RGBA":
        image.dispose = image.dispose.convert("RGBA")


def _seconds(image: Any) -> float:
    image.load()  # WebP says a frame's time when it is decoded
    return max(float(image.info.get("duration") or 0), SHORTEST) / 1000
