"""Pictures of which it is known where the object is: real drawings, cut out by their alpha, on backgrounds.

    item = load_items(["twemoji"])[0]
    pasted = paste(item.svg, background("texture", 128, generator), area=0.15, generator=generator)
    pasted.picture      (128, 128, 3) uint8
    pasted.mask         (128, 128) bool, where the drawing is more than half opaque: 15 % of the pixels

The drawing keeps its shape, is as large as `area` asks, and lies anywhere that it fits as a whole, each place as
likely as any other.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .emoji import render_transparent

BACKGROUNDS = ("white", "colour", "texture")
DRAWN = 512  # pixels: cut-outs are only made smaller


@dataclass(frozen=True)
class Pasted:
    """A picture, and where its object is."""

    picture: np.ndarray  # uint8 (S, S, 3)
    mask: np.ndarray  # bool (S, S)


def background(kind: str, side: int, generator: np.random.Generator) -> np.ndarray:
    """uint8 (side, side, 3): "white"; "colour", one of any; "texture", clouds of any colours with fine grain."""
    if kind not in BACKGROUNDS:
        raise ValueError(f"no background is called {kind!r}; there are {', '.join(BACKGROUNDS)}")
    if kind == "white":
        return np.full((side, side, 3), 255, np.uint8)
    colours = generator.integers(0, 256, (1 if kind == "colour" else 6,) * 2 + (3,)).astype(np.uint8)
    picture = np.asarray(Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC)).astype(float)
    if kind == "texture":
        picture += generator.normal(0, 12, (side, side, 1))
    return picture.clip(0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def cut_out(svg: str) -> Image.Image:
    """The drawing as RGBA, large, without an empty margin.

    Raises:
        ValueError: nothing of the drawing is more than half opaque.
    """
    image = render_transparent(svg, DRAWN)
    box = Image.fromarray(np.asarray(image)[..., 3] > 127).getbbox()
    if box is None:
        raise ValueError("nothing of the drawing is more than half opaque")
    return image.crop(box)


def paste(
    svg: str, on: np.ndarray, area: float, generator: np.random.Generator, beside: np.ndarray | None = None
) -> Pasted | None:
    """The drawing somewhere on a square picture, so that it covers the share `area` of it; None if it does not fit.

    Args:
        on: uint8 (S, S, 3), which stays as it is.
        beside: bool (S, S), what the drawing must not cover (the mask of another one).
    """
    if not 0 < area < 1:
        raise ValueError(f"area={area}; accepted: a share of the picture, more than 0 and less than 1")
    image, side = cut_out(svg), len(on)
    opaque = (np.asarray(image)[..., 3] > 127).mean()
    scale = math.sqrt(area * side**2 / (opaque * image.width * image.height))
    width, height = round(image.width * scale), round(image.height * scale)
    if not 1 <= min(width, height) or max(width, height) > side:
        return None
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    alpha = np.asarray(small)[..., 3]
    for _ in range(1 if beside is None else 200):
        left, top = (int(generator.integers(side - length + 1)) for length in (width, height))
        mask = np.zeros((side, side), bool)
        mask[top : top + height, left : left + width] = alpha > 127
        if beside is None or not (mask & beside).any():
            canvas = Image.fromarray(on)
            canvas.paste(small, (left, top), small)
            return Pasted(np.array(canvas), mask)
    return None
