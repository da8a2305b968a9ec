"""How much a number that a model gives depends on each part of a picture, by changing the picture.

occlusion              a part takes the mean colour (0 in pixel values that are normalised); what the number loses
integrated gradients   (x - x') * mean over a in (0, 1) of d number / d x at x' + a (x - x'), x' the mean colour
                       (Sundararajan, Taly and Yan 2017, arXiv:1703.01365); their sum is number(x) - number(x')

W numbers of a picture (C, H, V); they may be of words, classes or pairs. No attention is read.
"""

from collections.abc import Callable

import torch

CELLS = 8  # of a side, that are occluded one by one
STEPS = 16  # from the mean colour to the picture
AT_ONCE = 16  # changed pictures in one call
ROUNDING = 1e-5  # of a number, between two batches

Numbers = Callable[[torch.Tensor], torch.Tensor]  # pictures (n, C, H, V) -> (n, W)


def lost_by_occlusion(numbers: Numbers, picture: torch.Tensor, cells: int = CELLS) -> torch.Tensor:
    """(W, cells, cells): what each number loses without each part; negative where it grows.

    Losses that rounding alone could make, below 1e-5 * max(1, |number|), are 0: a map must not show them as parts.
    """
    height, width = picture.shape[-2:]
    if not 1 <= cells <= min(height, width):
        raise ValueError(f"cells={cells} must be in 1..{min(height, width)}, the pixels of the picture's shorter side")
    tops, lefts = ([side * step // cells for step in range(cells + 1)] for side in (height, width))
    places = [(down, across) for down in range(cells) for across in range(cells)]
    left_over = []
    with torch.no_grad():
        whole = numbers(picture[None])
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            changed = picture.expand(len(some), *picture.shape).clone()
            for one, (down, across) in zip(changed, some, strict=True):
                one[:, tops[down] : tops[down + 1], lefts[across] : lefts[across + 1]] = 0
            left_over.append(numbers(changed))
    lost = whole - torch.cat(left_over)
    lost = lost.masked_fill(lost.abs() < ROUNDING * whole.abs().clamp(min=1), 0)
    return lost.T.reshape(-1, cells, cells)


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
