"""Augmentation that changes a picture's style and pose but not what it shows; a function of (seed, view, picture).

n pictures of S x S pixels, RGB in 0..1, on white. Names such as "red apple" and "left arrow" forbid mirroring and
large changes of hue.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, max_pool2d

# Each draw is one column of `_draws`: (low, high) of a uniform number.
RANGES = {
    "angle": (-0.35, 0.35),  # radians
    "scale": (0.72, 1.08),
    "stretch": (-0.15, 0.15),  # log ratio of width to height
    "shear": (-0.15, 0.15),
    "shift_x": (-0.10, 0.10),  # of half the side
    "shift_y": (-0.10, 0.10),
    "hue": (-0.25, 0.25),  # radians on the colour circle
    "saturation": (0.2, 1.7),
    "brightness": (-0.15, 0.15),
    "contrast": (0.65, 1.35),
    "blur": (0.0, 1.0),  # below 0.2: blurred
    "outline": (0.0, 1.0),  # below 0.3: drawn with black contours
    "grey": (0.0, 1.0),  # below 0.07: without colour
}
# Of `vary`, for each picture: of numbers in 0..1 the one below which it is done, and how much.
VARIED = {
    "mixed": (0.0, 1.0),  # below 0.25: another drawing of the same is laid over it
    "share": (0.15, 0.5),  # of that other drawing
    "flat": (0.0, 1.0),  # below 0.15: few shades
    "shades": (3.0, 7.0),
    "warped": (0.0, 1.0),  # below 0.5
}
KNOTS, WARP = 4, 0.05  # points a side that move, and how far, of half the side


def draws(indices: list[int], view: int, seed: int) -> dict[str, Tensor]:
    """Random numbers (n,) of each kind, which depend only on seed, view and the picture's index."""
    rows = np.stack([np.random.default_rng((seed, view, index)).random(len(RANGES)) for index in indices])
    low, high = (np.array([bounds[side] for bounds in RANGES.values()]) for side in (0, 1))
    columns = torch.from_numpy(low + rows * (high - low)).float().T
    return dict(zip(RANGES, columns, strict=True))


def augment(pictures: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """float (n, 3, S, S) -> the same, moved, restyled and still in 0..1."""
    pictures = _outline(pictures, drawn["outline"] < 0.3)
    pictures = _move(pictures, drawn)
    pictures = _recolour(pictures, drawn)
    return torch.where((drawn["blur"] < 0.2).view(-1, 1, 1, 1), _blur(pictures), pictures).clamp(0, 1)


def vary(pictures: Tensor, others: Tensor, indices: list[int], view: int, seed: int) -> Tensor:
    """float (n, 3, S, S) -> the same, mixed with other drawings of the same things, flattened, and warped: what
    another vendor's drawing may have otherwise. A function of seed, view and the pictures' indices."""
    generators = [np.random.default_rng((seed, view, index, 1)) for index in indices]
    low, high = (np.array([bounds[side] for bounds in VARIED.values()]) for side in (0, 1))
    rows = np.stack([low + one.random(len(VARIED)) * (high - low) for one in generators])
    drawn = dict(zip(VARIED, torch.from_numpy(rows).float().T[..., None, None, None], strict=True))
    moved = torch.from_numpy(np.stack([one.normal(0, WARP, (2, KNOTS, KNOTS)) for one in generators])).float()
    pictures = torch.where(drawn["mixed"] < 0.25, torch.lerp(pictures, others, drawn["share"]), pictures)
    shades = drawn["shades"].round()
    pictures = torch.where(drawn["flat"] < 0.15, (pictures * shades).round() / shades, pictures)
    moved = moved * (drawn["warped"] < 0.5)
    fields = interpolate(moved, pictures.shape[-2:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    still = affine_grid(torch.eye(2, 3).expand(len(pictures), 2, 3), list(pictures.shape), align_corners=False)
    return 1 - grid_sample(1 - pictures, still + fields, mode="bilinear", padding_mode="zeros", align_corners=False)


def _move(pictures: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """Rotates, scales, shears and shifts; what comes in from outside is white."""
    cos, sin = torch.cos(drawn["angle"]), torch.sin(drawn["angle"])
    wide = torch.exp(drawn["stretch"] / 2) / drawn["scale"]
    high = torch.exp(-drawn["stretch"] / 2) / drawn["scale"]
    rows = torch.stack(
        [
            torch.stack([wide * cos, -wide * sin + drawn["shear"], drawn["shift_x"]], -1),
            torch.stack([high * sin, high * cos, drawn["shift_y"]], -1),
        ],
        dim=1,
    )  # (n, 2, 3)
    grid = affine_grid(rows, list(pictures.shape), align_corners=False)
    return 1 - grid_sample(1 - pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _hue_rotation(angle: Tensor) -> Tensor:
    """(n,) -> (n, 3, 3), rotations about the grey axis."""
    cos, sin = torch.cos(angle).view(-1, 1, 1), torch.sin(angle).view(-1, 1, 1)
    mean = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return cos * torch.eye(3) + (1 - cos) * mean + sin * cross


def _recolour(pictures: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """Hue, saturation, brightness and contrast, the last two towards and away from white, which stays white."""
    saturation = torch.where(drawn["grey"] < 0.07, torch.zeros(()), drawn["saturation"]).view(-1, 1, 1, 1)
    ink = torch.einsum("nij,njhw->nihw", _hue_rotation(drawn["hue"]), 1 - pictures)
    grey = ink.mean(dim=1, keepdim=True)
    ink = grey + saturation * (ink - grey)
    shade = drawn["contrast"].view(-1, 1, 1, 1)
    covered = (ink.abs().amax(dim=1, keepdim=True) > 0.03).float()
    return (1 - shade * ink - drawn["brightness"].view(-1, 1, 1, 1) * covered).clamp(0, 1)


def _outline(pictures: Tensor, chosen: Tensor) -> Tensor:
    """Black contours where neighbouring colours differ, as line art has them."""
    if not bool(chosen.any()):
        return pictures
    source = pictures[chosen]
    spread = (max_pool2d(source, 3, 1, 1) + max_pool2d(-source, 3, 1, 1)).amax(dim=1, keepdim=True)
    lines = (spread > 0.25).float()
    drawn = pictures.clone()
    drawn[chosen] = source * (1 - avg_pool2d(lines, 3, 1, 1))
    return drawn


def _blur(pictures: Tensor) -> Tensor:
    return 1 - avg_pool2d(1 - pictures, 3, 1, 1)
