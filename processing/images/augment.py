"""Augmentation for training: other views of a picture for which its text is still true.

    random resized crop ── mirror ── rotate ── brightness, contrast, saturation ── n operations as in RandAugment

Upright RGB in, upright RGB out, of any size. All random numbers come from the given generator, which MMDataCollator
makes from (seed, epoch, sample id). An image processor keeps the settings and applies none of them.

RandAugment: Cubuk et al. 2019, arXiv:1909.13719. Random resized crop: Szegedy et al. 2014, arXiv:1409.4842.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from .colours import Colour, rgb_colour
from .geometry import Box
from .limits import check_count, check_share, check_switch

CROP_TRIES = 10
ASPECTS = (3 / 4, 4 / 3)

# A text with one of these words may be false for a mirrored picture.
SIDED = re.compile(
    r"\b(left|right|leftmost|rightmost|lefthand|righthand|leftward|rightward|leftwards|rightwards|(anti|counter)?"
    r"clockwise|east|west|eastern|western|mirror|mirrored|letter|letters|word|words|text|sign|number|writing|reads)\b",
    re.IGNORECASE,
)


def names_a_side(texts: Iterable[str]) -> bool:
    """Whether any of the texts names left or right, or something that is read in one direction."""
    return any(SIDED.search(text.replace("-", " ")) for text in texts)


@dataclass(frozen=True)
class PictureAugmentation:
    """A callable (image, rng, texts) -> image. Numbers are largest changes; what is 0 or None is left out.

    crop: (low, high) share of the area that a random box keeps, its aspect within 3/4 and 4/3 of the picture's own.
    flip: probability of mirroring; 0 for pictures whose texts name a side, as long as `text_aware`.
    rotation: degrees; the corners show `background`.
    brightness, contrast, saturation: factors are drawn from 1 - x to 1 + x.
    operations, magnitude: so many of OPERATIONS one after the other, of strength 0..1 (RandAugment's n, and m / 30).
    """

    crop: tuple[float, float] | None = (0.6, 1.0)
    flip: float = 0.5
    rotation: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    operations: int = 0
    magnitude: float = 0.3
    text_aware: bool = True
    background: Colour = "white"

    def __post_init__(self):
        if self.crop is not None:
            try:
                low, high = map(float, self.crop)
            except (TypeError, ValueError):
                low = high = math.nan
            if not 0 < low <= high <= 1:
                raise ValueError(f"crop={self.crop!r}; accepted are shares 0 < low <= high <= 1 of the area, or None")
            object.__setattr__(self, "crop", (low, high))  # JSON has lists
        for name in ("flip", "brightness", "contrast", "saturation", "magnitude"):
            check_share(name, getattr(self, name))
        check_share("rotation", self.rotation, 180)
        check_count("operations", self.operations)
        check_switch("text_aware", self.text_aware)
        rgb_colour(self.background)

    def __call__(self, image: Image.Image, rng: np.random.Generator, texts: Iterable[str] = ()) -> Image.Image:
        """Another view of an RGB image. `texts`: all that is said about it."""
        box = self.box(image.size, rng)
        return self.changed(image if box == (0, 0, *image.size) else image.crop(box), rng, texts)

    def box(self, size: tuple[int, int], rng: np.random.Generator) -> Box:
        """What is kept of a picture of (width, height): the first that is drawn of a view."""
        return (0, 0, *size) if self.crop is None else _random_box(*size, rng, self.crop)

    def changed(self, image: Image.Image, rng: np.random.Generator, texts: Iterable[str] = ()) -> Image.Image:
        """The view, after `box`, of what that keeps of a picture, which may be shrunk."""
        colour = rgb_colour(self.background)
        mirror = rng.random() < self.flip  # drawn in any case: the rest of the view does not depend on the texts
        if mirror and not (self.text_aware and names_a_side(texts)):
            image = ImageOps.mirror(image)
        if self.rotation:
            angle = rng.uniform(-self.rotation, self.rotation)
            image = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=colour)
        for enhancer, change in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            if change:
                image = enhancer(image).enhance(rng.uniform(1 - change, 1 + change))
        for _ in range(self.operations):
            operation = OPERATIONS[rng.integers(len(OPERATIONS))]
            sign = 1 if rng.random() < 0.5 else -1
            image = operation(image, sign * self.magnitude, colour)
        return image

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them; `PictureAugmentation(**settings)` is this one again."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def _random_box(width: int, height: int, rng: np.random.Generator, shares: tuple[float, float]) -> Box:
    """A box of a random share of the area and a random aspect, where it fits; else the whole picture."""
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*shares)
        aspect = width / height * math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, top = rng.integers(width - across + 1), rng.integers(height - down + 1)
            return int(left), int(top), int(left) + across, int(top) + down
    return 0, 0, width, height


def _affine(image: Image.Image, matrix: tuple[float, ...], colour: tuple[int, int, int]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=colour)


# What RandAugment draws from, each by (image, strength in -1..1, colour). Nothing here mirrors, inverts or changes
# hues: a text could become false.
OPERATIONS: tuple[Callable[[Image.Image, float, tuple[int, int, int]], Image.Image], ...] = (
    lambda image, strength, colour: image,
    lambda image, strength, colour: ImageOps.autocontrast(image),
    lambda image, strength, colour: ImageOps.equalize(image),
    lambda image, strength, colour: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
    lambda image, strength, colour: ImageEnhance.Brightness(image).enhance(1 + 0.9 * strength),
    lambda image, strength, colour: ImageEnhance.Contrast(image).enhance(1 + 0.9 * strength),
    lambda image, strength, colour: ImageEnhance.Color(image).enhance(1 + 0.9 * strength),
    lambda image, strength, colour: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength),
    lambda image, strength, colour: image.rotate(30 * strength, Image.Resampling.BICUBIC, fillcolor=colour),
    lambda image, strength, colour: _affine(image, (1, 0.3 * strength, 0, 0, 1, 0), colour),
    lambda image, strength, colour: _affine(image, (1, 0, 0, 0.3 * strength, 1, 0), colour),
    lambda image, strength, colour: _affine(image, (1, 0, 0.3 * strength * image.width, 0, 1, 0), colour),
    lambda image, strength, colour: _affine(image, (1, 0, 0, 0, 1, 0.3 * strength * image.height), colour),
)
