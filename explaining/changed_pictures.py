"""How much a number that a model gives depends on each part of a picture, by changing the picture.

occlusion              squares take the mean colour (0 in pixel values that are normalised); what the number loses
integrated gradients   (x - x') * mean over a in (0, 1) of d number / d x at x' + a (x - x'), x' the mean colour
                       (Sundararajan, Taly and Yan 2017, arXiv:1703.01365); their sum is number(x) - number(x')

W numbers of a picture (C, H, V), or of its tiles (T, C, H, V); they may be of words, classes or pairs. No attention is
read.
"""

from collections.abc import Callable, Sequence

import torch

CELLS = 8  # parts of a side
WIDTH = 2  # parts of a side of the square that is occluded
STEPS = 16  # from the mean colour to the picture
AT_ONCE = 16  # changed pictures in one call
ROUNDING = 1e-5  # of a number, between two batches

Numbers = Callable[[torch.Tensor], torch.Tensor]  # pictures (n, C, H, V) or (n, T, C, H, V) -> (n, W)
Span = tuple[float, float]  # where a tile begins on a side of its picture and how much of it it shows, the side as 1


def lost_by_occlusion(
    numbers: Numbers,
    picture: torch.Tensor,
    cells: int = CELLS,
    width: int = WIDTH,
    tiles: Sequence[tuple[Span, Span]] | None = None,
) -> torch.Tensor:
    """(W, cells, cells): what each number loses without each part; negative where it grows.

    Squares of `width` x `width` parts are occluded, one at every part, over the edges too; a part has the mean of the
    width^2 squares that cover it. One part by itself often changes little, as its neighbours show what it hides.

    tiles: what each tile shows of the picture, down and across: a square is occluded in all that show it. None: it is
    no tiles.
    Losses that rounding could make, below 1e-5 * max(1, |number|), are 0: a map must not show them as parts.
    """
    sides = picture.shape[-2:]
    if not 1 <= cells <= min(sides):
        raise ValueError(f"cells={cells} must be in 1..{min(sides)}, the pixels of the picture's shorter side")
    if not 1 <= width <= cells:
        raise ValueError(f"width={width} must be in 1..{cells}, the parts of a side")
    ends = [(max(at, 0), min(at + width, cells)) for at in range(1 - width, cells)]  # of squares, in parts
    places = [(down, across) for down in ends for across in ends]
    shown = [((0.0, 1.0), (0.0, 1.0))] if tiles is None else tiles
    left_over = []
    with torch.no_grad():
        whole = numbers(picture[None])
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            changed = picture.expand(len(some), *picture.shape).clone()
            for one, square in zip(changed, some, strict=True):
                for tile, spans in zip(one[None] if tiles is None else one, shown, strict=True):
                    down, across = (
                        _pixels(ends, cells, span, side) for ends, span, side in zip(square, spans, sides, strict=True)
                    )
                    tile[:, down, across] = 0
            left_over.append(numbers(changed))
    lost = whole - torch.cat(left_over)
    lost = lost.masked_fill(lost.abs() < ROUNDING * whole.abs().clamp(min=1), 0)
    squares = lost.T.reshape(-1, 1, len(ends), len(ends))
    if not len(squares):
        return squares.reshape(0, cells, cells)
    return torch.nn.functional.avg_pool2d(squares, width, stride=1)[:, 0]


def _pixels(ends: tuple[int, int], cells: int, span: Span, side: int) -> slice:
    """Of a tile's side those of parts `ends` of its picture's."""
    first, share = span
    if (first, share) == (0, 1):
        return slice(side * ends[0] // cells, side * ends[1] // cells)
    begins, stops = (round((end / cells - first) / share * side) for end in ends)
    return slice(min(max(begins, 0), side), min(max(stops, 0), side))


def integrated_gradients(
    numbers: Numbers,
    picture: torch.Tensor,
    shape: tuple[int, int],
    steps: int = STEPS,
    tiles: Sequence[tuple[Span, Span]] | None = None,
) -> torch.Tensor:
    """(W, *shape): how far each part moved each number up (or, negative, down), of the pixels and colours in it.

    shape: rows and columns of the parts; where they do not divide the picture, pixels count in every part they touch.
    tiles: as in `lost_by_occlusion`; what all tiles show of a part is added up, a pixel on an edge by its shares.
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
    parts = (total / steps * picture).sum(-3)  # (W, H, V), of tiles (W, T, H, V)
    if tiles is not None:
        whole = parts.new_zeros(len(parts), *shape)
        for number, (down, across) in enumerate(tiles):
            rows, columns = _shares(shape[0], down, parts.shape[-2]), _shares(shape[1], across, parts.shape[-1])
            whole += rows.to(parts) @ parts[:, number] @ columns.to(parts).T
        return whole
    area = picture.shape[-2] * picture.shape[-1] / (shape[0] * shape[1])
    return torch.nn.functional.adaptive_avg_pool2d(parts[:, None], shape)[:, 0] * area


def _shares(parts: int, span: Span, pixels: int) -> torch.Tensor:
    """(parts, pixels): which share of each pixel of a tile's side lies in each part of its picture's."""
    edges = (span[0] + span[1] * torch.arange(pixels + 1, dtype=torch.float64) / pixels) * parts
    numbers = torch.arange(parts, dtype=torch.float64)[:, None]
    inside = torch.minimum(edges[1:], numbers + 1) - torch.maximum(edges[:-1], numbers)
    return inside.clamp(min=0) / (edges[1:] - edges[:-1])
