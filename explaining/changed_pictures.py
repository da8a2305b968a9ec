"""How much a number that a model gives depends on each part of a picture, by changing the picture.

occlusion              squares take the mean colour (0 in pixel values that are normalised); what the number loses
integrated gradients   (x - x') * mean over a in (0, 1) of d number / d x at x' + a (x - x'), x' the mean colour
                       (Sundararajan, Taly and Yan 2017, arXiv:1703.01365); their sum is number(x) - number(x')

W numbers of a picture (C, H, V); they may be of words, classes or pairs. No attention is read.
"""

from collections.abc import Callable

import torch

CELLS = 8  # parts of a side
WIDTH = 2  # parts of a side of the square that is occluded
STEPS = 16  # from the mean colour to the picture
AT_ONCE = 16  # changed pictures in one call
ROUNDING = 1e-5  # of a number, between two batches

Numbers = Callable[[torch.Tensor], torch.Tensor]  # pictures (n, C, H, V) -> (n, W)


def lost_by_occlusion(numbers: Numbers, picture: torch.Tensor, cells: int = CELLS, width: int = WIDTH) -> torch.Tensor:
    """(W, cells, cells): what each number loses without each part; negative where it grows.

    Squares of `width` x `width` parts are occluded, one at every part, over the edges too; a part has the mean of the
    width^2 squares that cover it. One part by itself often changes little, as its neighbours show what it hides.

    Losses that rounding could make, below 1e-5 * max(1, |number|), are 0: a map must not show them as parts.
    """
    sides = picture.shape[-2:]
    if not 1 <= cells <= min(sides):
        raise ValueError(f"cells={cells} must be in 1..{min(sides)}, the pixels of the picture's shorter side")
    if not 1 <= width <= cells:
        raise ValueError(f"width={width} must be in 1..{cells}, the parts of a side")
    tops, lefts = (
        [(side * max(at, 0) // cells, side * min(at + width, cells) // cells) for at in range(1 - width, cells)]
        for side in sides
    )
    places = [(down, across) for down in tops for across in lefts]
    left_over = []
    with torch.no_grad():
        whole = numbers(picture[None])
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            changed = picture.expand(len(some), *picture.shape).clone()
            for one, (down, across) in zip(changed, some, strict=True):
                one[:, slice(*down), slice(*across)] = 0
            left_over.append(numbers(changed))
    lost = whole - torch.cat(left_over)
    lost = lost.masked_fill(lost.abs() < ROUNDING * whole.abs().clamp(min=1), 0)
    squares = lost.T.reshape(-1, 1, len(tops), len(lefts))
    if not len(squares):
        return squares.reshape(0, cells, cells)
    return torch.nn.functional.avg_pool2d(squares, width, stride=1)[:, 0]


def integrated_gradients(
    numbers: Numbers, picture: torch.Tensor, shape: tuple[int, int], steps: int = STEPS
) -> torch.Tensor:
    """(W, *shape): how far each part moved each number up (or, negative, down), of the pixels and colours in it.

    shape: rows and columns of the parts; where they do not divide the picture, pixels count in every part they touch.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be 1 or more")
    total: torch.Tensor | float = 0.0
    for step in range(steps):
        with torch.enable_grad():
            changed = (picture[None] * ((step + 0.5) / steps)).detach().requires_grad_()
            found = numbers(changed)[0]
            slopes = [
                torch.autograd.grad(number, changed, retain_graph=place < len(found) - 1)[0][0]
                for place, number in enumerate(found)
            ]
        if not slopes:
            return picture.new_zeros(0, *shape)
        total = total + torch.stack(slopes)
    parts = (total / steps * picture).sum(1)  # (W, H, V)
    area = picture.shape[-2] * picture.shape[-1] / (shape[0] * shape[1])
    return torch.nn.functional.adaptive_avg_pool2d(parts[:, None], shape)[:, 0] * area
