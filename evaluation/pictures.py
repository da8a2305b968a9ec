"""Metrics of pictures: how like two are (PSNR, SSIM), and how like two sets are (the Frechet distance of features).

n pictures of H x W pixels with C channels, values in 0..1; d numbers describe a picture.
"""

import numpy as np

from .scores import Score, mean_score

_WINDOW, _SIGMA = 11, 1.5  # pixels
_STABLE = (0.01**2, 0.03**2)  # of the means and of the variances, for values in 0..1


def psnr(made: np.ndarray, true: np.ndarray) -> Score:
    """Peak signal-to-noise ratio in decibels, the mean over pictures: -10 log10 of the mean squared error.

    Args:
        made, true: float (n, C, H, W) in 0..1. Equal pictures have an infinite ratio.

    Raises: ValueError for unequal shapes, no pictures, or values outside of 0..1.
    """
    made, true = _checked(made, true)
    errors = np.square(made - true).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return mean_score("psnr", -10 * np.log10(errors), best=float("inf"))


def ssim(made: np.ndarray, true: np.ndarray) -> Score:
    """Structural similarity, the mean over channels and windows: 1 for equal pictures.

    Windows are of 11 x 11 pixels, weighted by a normal distribution of 1.5 pixels; those that reach over the border
    are left out, as the authors do.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".

    Args, Raises: as `psnr`; sides of at least 11 pixels.
    """
    made, true = _checked(made, true)
    if min(made.shape[2:]) < _WINDOW:
        raise ValueError(f"pictures of {made.shape[2]}x{made.shape[3]}; each side must be at least {_WINDOW}")
    x, y = _smooth(made), _smooth(true)
    var_x, var_y = _smooth(made * made) - x * x, _smooth(true * true) - y * y
    both = _smooth(made * true) - x * y
    means = (2 * x * y + _STABLE[0]) / (x * x + y * y + _STABLE[0])
    return mean_score("ssim", (means * (2 * both + _STABLE[1]) / (var_x + var_y + _STABLE[1])).mean((1, 2, 3)))


def frechet_distance(made: np.ndarray, true: np.ndarray) -> float:
    """Of two normal distributions with the means and covariances of two sets of features:

        |m - m'|^2 + trace(S + S' - 2 (S S')^(1/2))

    With InceptionV3's features this is FID (Heusel et al. 2017, arXiv:1706.08500); the number means nothing beside
    one of other features, and falls with more pictures.

    Args:
        made, true: float (n, d) and (n', d), two pictures or more each.

    Raises: ValueError for other shapes, or numbers that are not finite.
    """
    sets = [np.asarray(one, np.float64) for one in (made, true)]
    if any(one.ndim != 2 or len(one) < 2 for one in sets) or sets[0].shape[1] != sets[1].shape[1]:
        raise ValueError(f"features are {sets[0].shape} and {sets[1].shape}; give (n, d) and (n', d), 2 rows or more")
    if not all(np.isfinite(one).all() for one in sets):
        raise ValueError("features hold numbers that are not finite")
    covariances = [np.atleast_2d(np.cov(one, rowvar=False)) for one in sets]
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T  # so that what follows is symmetric
    mixed = np.linalg.eigvalsh(root @ covariances[1] @ root)
    shift = np.square(sets[0].mean(0) - sets[1].mean(0)).sum()
    spread = sum(np.trace(one) for one in covariances) - 2 * np.sqrt(mixed.clip(0)).sum()
    return float(shift + max(spread, 0.0))  # of equal sets it may round below 0


def _checked(made: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(made, np.float64), np.asarray(true, np.float64)
    if first.shape != second.shape or first.ndim != 4 or not first.size:
        raise ValueError(f"pictures are {first.shape} and {second.shape}; give float (n, C, H, W) of the same shape")
    for name, one in (("made", first), ("true", second)):
        if not (one.min() >= 0 and one.max() <= 1):  # nan too
            raise ValueError(f"{name} has values in {one.min():.4g}..{one.max():.4g}; accepted: 0..1")
    return first, second


def _smooth(pictures: np.ndarray) -> np.ndarray:
    """(..., H, W) -> (..., H - 10, W - 10), means weighted by the window."""
    places = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(places**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (-2, -1):
        pictures = np.lib.stride_tricks.sliding_window_view(pictures, _WINDOW, axis) @ weights
    return pictures
