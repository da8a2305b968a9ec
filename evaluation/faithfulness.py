"""Is a map over a picture faithful? Deletion, insertion, the pointing game, and the maps that a good one must beat.

A map (H, W) says how much each pixel of a picture (H, W, 3) counts. `score` is any function from pictures
(n, H, W, 3) to n numbers, such as a model's probability of a word. Petsiuk, Das and Saenko, "RISE" (BMVC 2018): pixels
are replaced in the order of the map, the greatest first, N of HW pixels in K equal steps, and the score is kept,

    deletion    x_0 = picture        x_K = filled picture      h_k = score(x_k)
    insertion   x_0 = filled picture x_K = picture

    AUC = 1/K  sum_{k=1..K} (h_{k-1} + h_k) / 2                                   (the trapezoid rule over 0..1)

A faithful map has a low AUC of deletion and a high one of insertion. Both depend on the fill: what the model thinks of
a hole is part of the number. RISE deletes with grey and inserts into a blurred picture.

    pointing game   is the map's greatest pixel on the object?                    (Zhang et al. 2016)
    mass inside     which share of the map is on the object?                      (Wang et al. 2020, "Score-CAM")

A map is only good if it beats one that has not seen the model: `centre_map`, a hill in the middle, and `random_map`,
hills at random places, as coarse as the maps that are measured (the speckle that random single pixels leave is another
damage than holes). Compare picture by picture (`mm.evaluation.intervals`).
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Score = Callable[[np.ndarray], np.ndarray]


def _checked_map(importance: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    values = np.asarray(importance, np.float64)
    if values.shape != tuple(shape) or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"the map has shape {values.shape}; give finite numbers in the {what}'s own size {tuple(shape)}"
        )
    return values


def filled(picture: np.ndarray, fill: str | tuple[int, int, int] = "mean", blur: float = 0.05) -> np.ndarray:
    """What stands where a pixel is taken away: a picture of the same size, uint8 (H, W, 3).

    Args:
        fill: "mean", the mean colour of the picture; "blur", the picture blurred; or a colour (red, green, blue).
        blur: the standard deviation of the blur, as a share of the longer side.
    """
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 (height, width, 3), got {pixels.dtype} {pixels.shape}")
    if isinstance(fill, str) and fill not in ("mean", "blur"):
        raise ValueError(f"fill={fill!r}; accepted are 'mean', 'blur' and a colour (red, green, blue)")
    if fill == "blur":
        return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blur * max(pixels.shape[:2]))))
    colour = pixels.mean((0, 1)).round() if fill == "mean" else np.asarray(fill)
    if colour.shape != (3,) or (colour < 0).any() or (colour > 255).any():
        raise ValueError(f"fill={fill!r} is no colour; give three integers in 0..255")
    return np.broadcast_to(colour.astype(np.uint8), pixels.shape).copy()


def replaced(start: np.ndarray, end: np.ndarray, importance: np.ndarray, steps: int) -> np.ndarray:
    """(steps + 1, H, W, 3): from `start` to `end`, the pixels that count most first; equal ones in reading order."""
    if start.shape != end.shape or start.dtype != end.dtype:
        raise ValueError(f"start is {start.dtype} {start.shape} and end {end.dtype} {end.shape}; they must be alike")
    if steps < 1:
        raise ValueError(f"steps={steps}; accepted: 1 or more")
    values = _checked_map(importance, start.shape[:2], "picture")
    place = np.empty(values.size, np.int64)
    place[np.argsort(-values, axis=None, kind="stable")] = np.arange(values.size)
    counts = np.linspace(0, values.size, steps + 1).round()
    gone = place.reshape(1, *values.shape) < counts.reshape(-1, 1, 1)  # (steps + 1, H, W)
    return np.where(gone[..., None], end, start)


def deletion_curve(
    score: Score,
    picture: np.ndarray,
    importance: np.ndarray,
    steps: int = 16,
    fill: str | tuple[int, int, int] = "mean",
) -> np.ndarray:
    """float64 (steps + 1,): the score while the pixels that count most are taken away; first of the whole picture."""
    return _scores(score, replaced(picture, filled(picture, fill), importance, steps))


def insertion_curve(
    score: Score,
    picture: np.ndarray,
    importance: np.ndarray,
    steps: int = 16,
    fill: str | tuple[int, int, int] = "blur",
) -> np.ndarray:
    """float64 (steps + 1,): the score while the pixels that count most are put back; last of the whole picture."""
    return _scores(score, replaced(filled(picture, fill), picture, importance, steps))


def _scores(score: Score, pictures: np.ndarray) -> np.ndarray:
    scores = np.asarray(score(pictures), np.float64)
    if scores.shape != (len(pictures),) or not np.isfinite(scores).all():
        raise ValueError(f"score returned shape {scores.shape} for {len(pictures)} pictures; one finite number each")
    return scores


def area_under(curve: np.ndarray) -> float:
    """The AUC of a curve over 0..1 with equal steps: a curve of equal values has their value."""
    values = np.asarray(curve, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a curve has two points or more in one row, got shape {values.shape}")
    return float((values[:-1] + values[1:]).mean() / 2)


def pointing_hit(importance: np.ndarray, mask: np.ndarray, tolerance: int = 0) -> float:
    """1.0 if the map's greatest pixel is on the object, 0.0 if not.

    Where several pixels are greatest it is the share of them that is: the chance of one drawn among them.

    Args:
        mask: bool (H, W), where the object is.
        tolerance: pixels by which the point may miss; Zhang et al. allow 15 in photographs.
    """
    inside = _checked_mask(mask)
    values = _checked_map(importance, inside.shape, "mask")
    if tolerance:
        image = Image.fromarray(inside.astype(np.uint8) * 255)
        inside = np.asarray(image.filter(ImageFilter.MaxFilter(2 * tolerance + 1))) > 0
    return float(inside[values == values.max()].mean())


def mass_inside(importance: np.ndarray, mask: np.ndarray) -> float:
    """The share of a map, of numbers of 0 or more, that is on the object; an even map has the object's area."""
    inside = _checked_mask(mask)
    values = _checked_map(importance, inside.shape, "mask")
    if (values < 0).any() or not values.sum() > 0:
        raise ValueError(
            f"the map runs from {values.min():g} to {values.max():g}; a share needs numbers of 0 or more, not all 0"
        )
    return float(values[inside].sum() / values.sum())


def _checked_mask(mask: np.ndarray) -> np.ndarray:
    inside = np.asarray(mask)
    if inside.dtype != bool or inside.ndim != 2 or not inside.any():
        raise ValueError(f"a mask is bool (height, width) with a True in it, got {inside.dtype} {inside.shape}")
    return inside


def centre_map(shape: tuple[int, int]) -> np.ndarray:
    """(H, W) with sum 1: greatest in the middle, a hill with a standard deviation of a quarter of each side."""
    rows, columns = ((np.arange(side) + 0.5) / side - 0.5 for side in shape)
    hill = np.exp(-8 * (rows[:, None] ** 2 + columns**2))
    return hill / hill.sum()


def random_map(shape: tuple[int, int], cells: int | tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """(H, W) with sum 1: a random number for each of `cells` by `cells` cells, made smooth as `enlarge` does.

    With as many cells as pixels it is noise.
    """
    size = (cells, cells) if isinstance(cells, int) else cells
    drawn = enlarge(generator.random(size), shape)
    return drawn / drawn.sum()


def enlarge(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A coarse map (h, w) in the size (H, W), bilinear, as masks of RISE and most drawings of maps are."""
    image = Image.fromarray(np.asarray(values, np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR), np.float64)
