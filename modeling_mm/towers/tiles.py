"""Tiles of a picture: those that a ViT reads together, their places and the layers over all of them (Llama 3.2
Vision), and those that are read one by one and joined to a grid of tokens (LLaVA-NeXT).

    rows x columns of tiles, in a picture of at most max_tiles        number
    1 x 1, 1 x 2, ..., 2 x 1, 2 x 2, ...                              1, 2, ...; 0 for no picture

p pictures, N tiles of each (max_tiles; those that a picture lacks are zeros), S tokens of a tile, D hidden_size. In
contexts: B of them, M pictures of each, L tokens of a picture.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ...configuration.mm import MMConfig
from ...configuration.vision import MMVisionConfig
from ..core.input_checks import INTEGERS, MediaItems, check_tensors, may_read_values
from ..core.layers import MMLayer

_MULTIPLE = 8  # a tile's tokens are filled up to such a number with zeros, which the others read too


class MMTileEmbedding(nn.Module):
    """tanh(gate) times a learned vector for each tile of each arrangement, and for each of its `tokens`."""

    def __init__(self, config: MMVisionConfig, tokens: int):
        super().__init__()
        self.sizes = (config.max_tiles, tokens, config.hidden_size)
        self.table = nn.Embedding(len(config.tile_arrangements) + 1, math.prod(self.sizes))
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """int64 (p,) of arrangements -> (p, N, tokens, D)."""
        return torch.tanh(self.gate) * self.table(numbers).unflatten(1, self.sizes)


class MMTiles(nn.Module):
    """What a ViT has for tiles that it reads together.

    before, positions, after: added to the patches, to all tokens with the positions, and after the norm of the first
    layers. layers: of self-attention and an MLP, each gated, after that norm.
    """

    def __init__(self, config: MMVisionConfig, tokens: int):
        super().__init__()
        self.most, self.tokens = config.max_tiles, tokens
        self.arrangements = config.tile_arrangements
        self.before, self.after = MMTileEmbedding(config, 1), MMTileEmbedding(config, 1)
        self.positions = MMTileEmbedding(config, tokens)
        first = config.num_hidden_layers
        self.layers = nn.ModuleList(
            [MMLayer(config, self_idx=first + i, gate="tanh") for i in range(config.num_global_layers)]
        )

    def numbers(self, grids: torch.Tensor) -> torch.Tensor:
        """int64 (p, 2), rows and columns of tiles -> int64 (p,), the numbers of these arrangements."""
        table = torch.zeros(self.most + 1, self.most + 1, dtype=torch.long)
        for number, (rows, columns) in enumerate(self.arrangements, start=1):
            table[rows, columns] = number
        rows, columns = grids.clamp(0, self.most).unbind(-1)
        return table.to(grids.device)[rows, columns]

    def pad(self, states: torch.Tensor, grids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(p * N, S, D) -> (p, N * L, D), L a multiple of 8, and which token reads which, bool (p, 1, N * L, N * L).

        As in the original, only tokens that are no part of the picture do not read each other: those of the picture
        read them too.
        """
        states = F.pad(states, (0, 0, 0, -self.tokens % _MULTIPLE)).unflatten(0, (-1, self.most))
        length = states.shape[2]
        tiles = torch.arange(self.most, device=grids.device) < grids.prod(-1)[:, None]  # (p, N)
        tokens = torch.arange(length, device=grids.device) < self.tokens
        real = (tiles[..., None] & tokens).flatten(1)
        return states.flatten(1, 2), (real[:, :, None] | real[:, None])[:, None]

    def unpad(self, states: torch.Tensor) -> torch.Tensor:
        """(p, N * L, ...) -> (p, N * S, ...), without what `pad` added."""
        return states.unflatten(1, (self.most, -1))[:, :, : self.tokens].flatten(1, 2)

    def run_layers(self, states: torch.Tensor, numbers: torch.Tensor, mask: torch.Tensor, **kwargs) -> torch.Tensor:
        """(p, N * L, D) -> the same, through the gated layers."""
        tiles = states.unflatten(1, (self.most, -1)) + self.after(numbers)
        states = tiles.flatten(1, 2)
        for layer in self.layers:
            states = layer(states, attention_mask=mask, **kwargs)
        return states


# ---- tiles in slots -------------------------------------------------------------------------------------------------


def tiles_to_pictures(found: list[MediaItems], grids: torch.Tensor | None, most: int) -> list[MediaItems]:
    """The items of `check_media`, those of pictures whose tiles the tower reads together: (B, M, N, C, H, W).

    Raises: ValueError for image_grids that are absent or do not fit.
    """
    if not found:
        return found
    if grids is None:
        raise ValueError(
            f"image_grids was not given, and vision_config.max_tiles={most}: they say how the tiles of pictures "
            "stand, as the processor gives them"
        )
    if found[0].is_ready or found[0].mask is not None:
        raise ValueError(
            f"tiles are read together (vision_config.max_tiles={most}): give pixel_values of whole tiles, not "
            "visual_embeds or a mask of patches"
        )
    check_grids(grids, len(found[0].values), most)
    return [_of_pictures(one, grids, most) for one in found]


def check_grids(grids: torch.Tensor, batch: int, most: int) -> None:
    """image_grids of tiles that are read together: int64 (B, M, 2), an arrangement of at most `most`, or zeros."""
    check_tensors(image_grids=grids)
    if grids.ndim != 3 or grids.shape[0] != batch or grids.shape[2] != 2 or grids.dtype not in INTEGERS:
        raise ValueError(
            f"image_grids must be int64 ({batch}, M, 2), rows and columns of tiles of each of M pictures; got "
            f"{grids.dtype} {tuple(grids.shape)}"
        )
    if not may_read_values():
        return
    number, none = grids.prod(-1), (grids == 0).all(-1)
    if bool(((grids < 1).any(-1) & ~none).any()) or int(number.max()) > most:
        raise ValueError(
            f"image_grids hold {grids.tolist()}; accepted are rows and columns of tiles from 1 that make at most "
            f"max_tiles={most}, and [0, 0] for absent pictures"
        )


def _of_pictures(items: MediaItems, grids: torch.Tensor, most: int) -> MediaItems:
    """Tiles (B, T, C, H, W), those of the first picture, of the second and so on, as pictures (B, M, N, C, H, W), with
    zeros for tiles that a picture lacks.

    Raises: ValueError for another number of tiles than the grids name, or absent ones before the last.
    """
    values, number = items.values, grids.prod(-1)  # (B, M)
    slots = torch.arange(values.shape[1], device=values.device)
    there = items.present
    if may_read_values():
        real = torch.ones_like(values[:, :, 0, 0, 0], dtype=torch.bool) if there is None else there
        for context, (own, wanted) in enumerate(zip(real, number.sum(1).tolist(), strict=True)):
            if not torch.equal(own, slots < wanted):
                raise ValueError(
                    f"context {context} has {int(own.sum())} tiles, and its image_grids name {wanted}; they come one "
                    "after the other, absent ones last"
                )
    places = (number.cumsum(1) - number)[..., None] + torch.arange(most, device=values.device)  # (B, M, N)
    real = torch.arange(most, device=values.device) < number[..., None]
    index = places.clamp(max=values.shape[1] - 1).flatten(1)
    taken = values[torch.arange(len(values), device=values.device)[:, None], index].unflatten(1, real.shape[1:])
    taken = taken.masked_fill(~real[..., None, None, None], 0)
    present = number > 0
    return items._replace(values=taken, present=present, grids=grids)


def mark_missing_tiles(items: MediaItems, most: int) -> MediaItems:
    """Which tokens (B, M, N * S) are of tiles that a picture lacks: they come after all others in a context."""
    if items.grids is None:
        return items
    length = items.values.shape[2]
    tile = torch.arange(length, device=items.values.device) // (length // most)
    return items._replace(lacking=tile >= items.grids.prod(-1)[..., None])


# ---- tiles in one grid ----------------------------------------------------------------------------------------------


def join_tiles(
    items: MediaItems, grids: torch.Tensor | None, newline: torch.Tensor | None, config: MMConfig
) -> MediaItems:
    """Tokens (B, N, S, D) of tiles -> (B, M, L, D) of pictures, with a mask: one grid of tokens, with a learned vector
    after each of its rows (LLaVA-NeXT).

        whole  tile  tile        w w w w  then, of the grid without its padding,  t t t t t t n
               tile  tile                                                         t t t t t t n

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
