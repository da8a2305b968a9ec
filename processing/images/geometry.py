"""Sizes and shapes: upright RGB images in, images of the model's size out.

squash ┌────┐   crop ┌─┬──┬─┐   pad ┌────┐   native ┌──────┐ as many patches as the budget allows,
       │    │        │ │  │ │       │▒▒▒▒│          │      │ in the picture's own aspect
       └────┘        └─┴──┴─┘       └────┘          └──────┘
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from PIL import Image, ImageChops
from PIL import __version__ as pillow_version
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import SizeDict, get_image_size_for_max_height_width

from .colours import STRIP_PIXELS, strips
from .limits import MAX_PIXELS, MediaDecodeError

_SCALE_STEP = 1e-5  # of "native": SigLIP 2's search for a scale stops here
RESIZE_MODES = ("squash", "crop", "pad", "native")

# A thin strip padded to a square has the square of its length in pixels: longer contents are shrunk to this first.
LARGEST_SQUARE = 4096

# Pixels between the two passes of a resize from which on the channels go one by one, to save memory.
LARGEST_BETWEEN = 2**23

# Up to 12 Pillow resizes rows first, except for very tall pictures; from 13 on columns, if that is cheaper.
CHOOSES_ORDER = int(pillow_version.split(".")[0]) >= 13

Box = tuple[int, int, int, int]
Rgb = tuple[int, int, int]


def cut_to_content(image: Image.Image, colour: Rgb, threshold: int, margin: float) -> Image.Image:
    """The box of pixels that differ from `colour` by more than `threshold` in any channel, centred on a square of it.

    An image without such pixels is kept whole. `margin` is added on each side, as a share of the square's side.
    """
    return _cut_to_square(image, colour, *content_square(image, colour, threshold, margin))


def content_resized(
    image: Image.Image, colour: Rgb, threshold: int, margin: float, size: SizeDict, resample: int
) -> Image.Image:
    """What `cut_to_content` gives, resized to `size`, bit for bit; of a large square only strips are made."""
    box, cut, side = content_square(image, colour, threshold, margin)
    target = target_size((side, side), size)
    is_shrunk = cut != (box[2] - box[0], box[3] - box[1])
    fits_between = target[0] * side <= LARGEST_BETWEEN
    if is_shrunk or side * side <= STRIP_PIXELS or not fits_between or not rows_are_first(side, side, target):
        return resized(_cut_to_square(image, colour, box, cut, side), target, resample)
    return _resized_by_strips(image, target, resample, box, canvas=(side, side), colour=colour)


def _cut_to_square(image: Image.Image, colour: Rgb, box: Box, size: tuple[int, int], side: int) -> Image.Image:
    if size != (box[2] - box[0], box[3] - box[1]):
        content = resized(image, size, Image.Resampling.BICUBIC, box)
    else:
        content = image if size == image.size else image.crop(box)
    return _centred(content, (side, side), colour)


def content_square(image: Image.Image, colour: Rgb, threshold: int, margin: float) -> tuple[Box, tuple[int, int], int]:
    """The box of the content, the (width, height) that it is cut to, and the side of the square around it."""
    box = content_box(image, colour, threshold)
    width, height = box[2] - box[0], box[3] - box[1]
    longest = max(width, height)
    if longest > LARGEST_SQUARE:
        shrink = LARGEST_SQUARE / longest
        width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
    side = max(width, height)
    return box, (width, height), side + 2 * round(side * margin)


class View(NamedTuple):
    """Where the pixels of an input lie in its picture: pixel (x, y) of the input, which is (width, height), begins at
    (left + across * x, top + down * y) of the upright picture, perhaps beyond its edges."""

    left: float
    top: float
    across: float
    down: float
    width: int
    height: int

    def of_box(self, box: Box, size: tuple[int, int]) -> "View":
        """After `box` of it was resized to (width, height)."""
        across, down = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]
        left, top = self.left + self.across * box[0], self.top + self.down * box[1]
        return View(left, top, self.across * across, self.down * down, *size)

    def centred(self, size: tuple[int, int]) -> "View":
        """After it was centred on a canvas of (width, height)."""
        left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        return self._replace(
            left=self.left - self.across * left, top=self.top - self.down * top, width=size[0], height=size[1]
        )


def content_box(image: Image.Image, colour: Rgb, threshold: int) -> Box:
    """The box of pixels that differ from `colour`; all of an image without such pixels."""
    levels = [0] * (threshold + 1) + [255] * (255 - threshold)

    def found(part: Box) -> Box | None:
        strip = image.crop(part)
        return ImageChops.difference(strip, Image.new("RGB", strip.size, colour)).point(levels * 3).getbbox()

    width, height = image.size
    edges = (0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height)
    if all(found(edge) for edge in edges):
        return 0, 0, width, height
    # from each edge as far as the first content: what is inside it need not be looked at
    above = _first(((0, rows[0], width, rows[1]) for rows in _bands(height, width)), found)
    if above is None:
        return 0, 0, width, height
    below = _first(((0, rows[0], width, rows[1]) for rows in reversed(_bands(height, width))), found)
    top, bottom = above[1], below[3]
    left = _first(((columns[0], top, columns[1], bottom) for columns in _bands(width, bottom - top)), found)
    right = _first(((columns[0], top, columns[1], bottom) for columns in reversed(_bands(width, bottom - top))), found)
    return left[0], top, right[2], bottom


def _bands(length: int, across: int) -> list[tuple[int, int]]:
    """(first, end) of bands that cover a side: a sixteenth of it each, of some STRIP_PIXELS at most."""
    step = max(1, min(-(-length // 16), STRIP_PIXELS // across))
    return [(first, min(first + step, length)) for first in range(0, length, step)]


def _first(parts: Iterable[Box], found: Callable[[Box], Box | None]) -> Any:
    """The box of the content in the first part that has some, in the picture's own pixels; None: none has."""
    for part in parts:
        box = found(part)
        if box is not None:
            return box[0] + part[0], box[1] + part[1], box[2] + part[0], box[3] + part[1]
    return None


def resized(image: Image.Image, size: tuple[int, int], resample: int, box: Box | None = None) -> Image.Image:
    """`image.crop(box).resize(size)`, bit for bit, without the memory of that crop, or of much between the two passes.

    Where Pillow resizes rows first and columns of the result second, each channel for itself, the rows may come in
    strips, and the channels one by one. Where columns may be first, a picture of up to LARGEST_BETWEEN pixels goes
    the plain way, and a larger one may be some levels off (`rows_are_first`).
    """
    whole = (0, 0, *image.size)
    box = box or whole
    width, height = box[2] - box[0], box[3] - box[1]
    if not rows_are_first(width, height, size) and (not CHOOSES_ORDER or width * height <= LARGEST_BETWEEN):
        return (image if box == whole else image.crop(box)).resize(size, resample)
    if size[0] * height > LARGEST_BETWEEN:
        bands = [_resized_by_strips(image, size, resample, box, channel) for channel in image.getbands()]
        return Image.merge(image.mode, bands)
    return image.resize(size, resample) if box == whole else _resized_by_strips(image, size, resample, box)


def rows_are_first(width: int, height: int, size: tuple[int, int]) -> bool:
    """Whether it is certain that Pillow resizes the rows of a picture first."""
    return size[1] >= height or not (CHOOSES_ORDER or height > 100 * width)


def _resized_by_strips(
    image: Image.Image,
    size: tuple[int, int],
    resample: int,
    box: Box,
    channel: str | None = None,
    canvas: tuple[int, int] | None = None,
    colour: Rgb = (0, 0, 0),
) -> Image.Image:
    """With a canvas (width, height): as if the box stood in the middle of one of `colour`."""
    left, top, right, bottom = box
    width, height = canvas or (right - left, bottom - top)
    above = (height - (bottom - top)) // 2
    mode, filled = (image.mode, colour) if channel is None else ("L", 0)
    narrow = Image.new(mode, (size[0], height), filled)
    for first, last in strips(width, bottom - top):
        strip = image.crop((left, top + first, right, top + last))
        strip = strip if channel is None else strip.getchannel(channel)
        strip = strip if canvas is None else _centred(strip, (width, last - first), colour)
        narrow.paste(strip.resize((size[0], last - first), resample), (0, above + first))
    return narrow.resize(size, resample)


def fit(width_height: tuple[int, int], mode: str, size: SizeDict, patch_size: int, max_patches: int):
    """How a picture of (width, height) gets its size: the box of it that is kept, (width, height) to resize that to,
    and (width, height) to centre the result on; the last is None where nothing is added.
    """
    width, height = width_height
    whole = (0, 0, width, height)
    if mode == "squash":
        return whole, target_size(width_height, size), None
    if mode == "native":
        return whole, native_size(width, height, patch_size, max_patches), None
    if not (size.height and size.width):
        raise ValueError(f"resize_mode={mode!r} needs size={{'height': h, 'width': w}}; got {dict(size)}")
    if mode == "crop":
        return _covering_box(width, height, size.width / size.height), (size.width, size.height), None
    scale = min(size.width / width, size.height / height)
    inside = (
        min(size.width, max(1, round(width * scale))),
        min(size.height, max(1, round(height * scale))),
    )
    return whole, inside, (size.width, size.height)


def shaped(
    image: Image.Image, mode: str, size: SizeDict, resample: int, colour: Rgb, patch_size: int, max_patches: int
) -> Image.Image:
    """`image` resized by one of RESIZE_MODES."""
    box, target, canvas = fit(image.size, mode, size, patch_size, max_patches)
    image = resized(image, target, resample, box)
    return image if canvas is None else _centred(image, canvas, colour)


def _covering_box(width: int, height: int, aspect: float) -> Box:
    """The largest box of the given aspect (width / height) in the middle of a picture; at least one pixel."""
    inner_width = min(width, max(1, round(height * aspect)))
    inner_height = min(height, max(1, round(width / aspect)))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return left, top, left + inner_width, top + inner_height


def native_size(width: int, height: int, patch_size: int, max_patches: int) -> tuple[int, int]:
    """(width, height), multiples of `patch_size`, in the aspect of the picture: the largest that has no more than
    `max_patches` patches. Each side has one patch at least.

    The size is SigLIP 2's to the patch, so the search stops where that of its processor does: within 1e-5 of the
    scale, and at 100 times the picture.
    """

    def sides(scale: float) -> tuple[int, int]:
        return tuple(patch_size * max(1, math.ceil(side * scale / patch_size)) for side in (width, height))  # pyright: ignore[reportReturnType]: two of two

    def fits(scale: float) -> bool:
        return math.prod(sides(scale)) <= max_patches * patch_size**2

    low, high = _SCALE_STEP / 10, 100.0
    if not fits(low):  # a picture of millions of pixels a side
        return patch_size, patch_size
    while high - low >= _SCALE_STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return sides(low)


def target_size(width_height: tuple[int, int], size: SizeDict) -> tuple[int, int]:
    """(width, height) to resize to, by any of the forms that `size` may have."""
    width, height = width_height
    if size.height and size.width:
        return size.width, size.height
    if size.shortest_edge:
        new_height, new_width = get_size_with_aspect_ratio((height, width), size.shortest_edge, size.longest_edge)
    elif size.max_height and size.max_width:
        new_height, new_width = get_image_size_for_max_height_width((height, width), size.max_height, size.max_width)
    else:
        raise ValueError(
            f"size has height and width, shortest_edge (and longest_edge), or max_height and max_width; "
            f"got {dict(size)}"
        )
    if new_height * new_width > MAX_PIXELS:
        raise MediaDecodeError(
            f"a picture of {width} x {height} would become {new_width} x {new_height}, more than {MAX_PIXELS} pixels"
        )
    return max(1, new_width), max(1, new_height)


def centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The middle of the image; black where the image is smaller than (height, width)."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _centred(image: Image.Image, size: tuple[int, int], colour: Rgb) -> Image.Image:
    """`image` in the middle of a canvas of `colour`."""
    if image.size == size:
        return image
    canvas = Image.new("RGB", size, colour)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas
