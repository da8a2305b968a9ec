"""Augmentation that changes a picture's style and pose but not what it shows; a function of (seed, view, picture).

n pictures of S x S pixels, RGB in 0..1, on white. Names such as "red apple" and "left arrow" forbid mirroring and
large changes of hue.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, max_pool2d

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
