"""The part of a picture that a view keeps: its box is drawn from the picture's own size, before anything is decoded.

header ── box of (width, height) ── decoded at 1, 1/2, 1/4 or 1/8 (JPEG) ── cut ── shrunk to twice what is enough
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .colours import orientation
from .geometry import Box, resized

SPARE = 2  # pixels a side for each that is needed: what happens to a view (rotations) is not seen in the result
TURNED = (5, 6, 7, 8)  # EXIF orientations whose width is the height of the file


@dataclass
class Region:
    """What is kept of one picture; everything, where there is no `box_of`.

    Args:
        box_of, enough: as in `load_image`.
        content_of: of what is kept, the box that becomes the whole picture later.
    """

    box_of: Callable[[tuple[int, int]], Box] | None
    enough: tuple[int, int] | None
    content_of: Callable[[Image.Image], Box] | None = None
    size: tuple[int, int] | None = None  # of the upright picture in its file
    box: Box | None = None

    def draft(self, image: Any) -> None:
        """Has a JPEG file, opened and not decoded yet, decoded no larger than the box needs."""
        if (
            self.box_of is None
            or self.enough is None
            or self.content_of is not None
            or image.format not in ("JPEG", "MPO")
        ):
            return
        turned = orientation(image) in TURNED
        size: tuple[int, int] = image.size[::-1] if turned else image.size
        self.size, self.box = size, self.box_of(size)
        sides = zip(self.enough, size, _sides(self.box), strict=True)
        least = [math.ceil(SPARE * enough * whole / kept) for enough, whole, kept in sides]
        image.draft(None, tuple(least[::-1] if turned else least))

    def of(self, picture: Image.Image) -> Image.Image:
        """The box of an upright RGB picture, in the aspect that it has there."""
        if self.box_of is None:
            return picture
        size = self.size or picture.size
        kept = self.box or self.box_of(size)
        scales = picture.width / size[0], picture.height / size[1]
        left, top, right, bottom = (round(edge * scales[place % 2]) for place, edge in enumerate(kept))
        box = left, top, max(right, left + 1), max(bottom, top + 1)
        sides, shrink = _sides(box), self._shrink(picture, box)
        if shrink < 1:
            small = max(1, round(sides[0] * shrink)), max(1, round(sides[1] * shrink))
            return resized(picture, small, Image.Resampling.BICUBIC, box)
        return picture if box == (0, 0, *picture.size) else picture.crop(box)

    def _shrink(self, picture: Image.Image, box: Box) -> float:
        """The factor by which the box has SPARE pixels for each that is needed."""
        if self.enough is None:
            return 1.0
        if self.content_of is None:
            return max(SPARE * enough / side for enough, side in zip(self.enough, _sides(box), strict=True))
        content = self.content_of(picture.crop(box))  # laid on a square of its longest side
        return SPARE * max(self.enough) / max(_sides(content))


def _sides(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]
