"""Tiles of a picture as one grid of tokens, with a learned vector after each of its rows (LLaVA-NeXT).

    whole  tile  tile        w w w w  then, of the grid without its padding,  t t t t t t n
           tile  tile                                                         t t t t t t n

B contexts, N tiles and M pictures of each, S = h*w tokens of a tile, L tokens of a picture, D their width.
"""

import torch
import torch.nn.functional as F

from ...configuration.mm import MMConfig
from ..core.input_checks import INTEGERS, MediaItems


def join_tiles(
    items: MediaItems, grids: torch.Tensor | None, newline: torch.Tensor | None, config: MMConfig
) -> MediaItems:
    """Tokens (B, N, S, D) of tiles -> (B, M, L, D) of pictures, with a mask.

    Args:
        grids: int64 (B, M, 4) of each picture: rows and columns of tiles, after the tile of the whole, and rows and
            columns of tokens that are no padding, in the middle of them; 0 for absent pictures, which come last.
        newline: (D,), after each row of tokens.
    Raises: ValueError for grids without a newline or a newline without grids, and for grids of other tiles than there
        are.
    """
    if newline is None or grids is None:
        raise ValueError(
            f"image_grids {'was not' if grids is None else 'was'} given, and image_newline={config.image_newline}: "
            "they say how the tiles of pictures stand, as the processor gives them"
        )
    sides = tuple(side // config.pixel_shuffle for side in config.vision_config.patch_grid)
    values = items.values
    batch, slots, length = values.shape[:3]
    if grids.ndim != 3 or grids.shape[0] != batch or grids.shape[2] != 4 or grids.dtype not in INTEGERS:
        raise ValueError(
            f"image_grids must be int64 ({batch}, M, 4), rows and columns of tiles and of tokens of each of M "
            f"pictures; got {grids.dtype} {tuple(grids.shape)}"
        )
    if length != sides[0] * sides[1]:
        raise ValueError(f"image_newline reads {sides[0]} x {sides[1]} tokens of a tile; the tower made {length}")
    present = [slots] * batch if items.present is None else items.present.sum(1).tolist()
    rows, starts = [], []
    for number, (pictures, tiles) in enumerate(zip(grids.tolist(), present, strict=True)):
        first, of_context = 0, []
        starts.append([0] * len(pictures))
        for place, grid in enumerate(pictures):
            if any(grid):
                _check_grid(grid, sides)
                starts[-1][place] = first
                of_context.append(_places(grid, sides, first, slots * length))
                first += 1 + grid[0] * grid[1]
            else:
                of_context.append(torch.empty(0, dtype=torch.long))
        if first != tiles:
            raise ValueError(f"context {number} has {tiles} tiles, and its image_grids name {first}")
        rows.append(of_context)
    longest = max(1, *(len(places) for row in rows for places in row))
    flat = torch.stack([F.pad(places, (0, longest - len(places)), value=-1) for row in rows for places in row])
    index = flat.view(batch, -1, longest).to(values.device)  # (B, M, L), -1 for none
    mask = index >= 0
    tokens = torch.cat([values.flatten(1, 2), newline.to(values).expand(batch, 1, -1)], dim=1)
    taken = tokens.gather(1, index.clamp(min=0).flatten(1)[..., None].expand(-1, -1, tokens.shape[2]))
    taken = taken.view(*index.shape, -1) * mask[..., None]
    pooled = items.pooled
    if pooled is not None:  # of the whole
        whole = torch.tensor(starts, device=values.device)
        pooled = pooled.gather(1, whole[..., None].expand(-1, -1, pooled.shape[2]))
    return items._replace(values=taken, mask=mask, present=mask.any(-1), pooled=pooled)


def _check_grid(grid: list[int], sides: tuple[int, int]) -> None:
    whole = grid[0] * sides[0], grid[1] * sides[1]
    if (
        min(grid[:2]) < 1
        or min(grid[2:]) < 0
        or any(kept > side or (side - kept) % 2 for kept, side in zip(grid[2:], whole, strict=True))
    ):
        raise ValueError(
            f"image_grids hold {grid}; accepted are rows and columns of tiles from 1, and of tokens in their middle "
            f"from 0, at most {whole} and less by even numbers"
        )


def _places(grid: list[int], sides: tuple[int, int], first: int, newline: int) -> torch.Tensor:
    """Numbers of the tokens of one picture among those of all tiles, `newline` for ends of rows."""
    (rows, columns, kept_rows, kept_columns), (high, wide) = grid, sides
    top, left = (rows * high - kept_rows) // 2, (columns * wide - kept_columns) // 2
    down = torch.arange(top, top + kept_rows)[:, None]
    across = torch.arange(left, left + kept_columns)
    tile = first + 1 + (down // high) * columns + across // wide
    tokens = tile * (high * wide) + (down % high) * wide + across % wide
    whole = torch.arange(high * wide) + first * (high * wide)
    return torch.cat([whole, F.pad(tokens, (0, 1), value=newline).flatten()])
