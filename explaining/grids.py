"""From context tokens to the places they come from: patches of a picture, frames of a video, moments of a sound.

W words, S context tokens.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from ..configuration.conv import MMConvConfig
from ..configuration.vision import MMVisionConfig

KINDS = ("image", "video", "audio", "text")  # the first column of token_sources
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


class Grid(NamedTuple):
    """The tokens of one item: `lead` of them are of no place (CLS, registers), the others lie on `shape`.

    shape: (rows, columns) of a picture, (frames, rows, columns) of a video, (moments,) of a sound. cell: (height,
    width) in pixels of a patch.
    """

    lead: int
    shape: tuple[int, ...]
    cell: tuple[float, float] | None = None


def grid_of(config: Any, kind: str, tokens: int, pixels: torch.Size | None) -> Grid:
    """How the `tokens` of one item of this kind lie; `pixels` is the shape of pixel_values or pixel_values_videos.

    Raises: ValueError where tokens have no place: after a resampler, or pooled over frames.
    """
    if kind == "audio" or pixels is None:
        _check_places(config.audio_resampler_config, "audio")
        return Grid(0, (tokens,))
    _check_places(config.vision_resampler_config, "vision")
    if config.image_newline:
        raise ValueError(
            "image_newline=True joins tiles to grids of many sizes, whose tokens are not placed on a picture; "
            "method='occlusion' does without tokens"
        )
    if config.max_tiles:
        raise ValueError(
            f"vision_config.max_tiles={config.max_tiles}: tokens are of tiles in many arrangements, not placed on "
            "a picture; method='occlusion' does without tokens"
        )
    if kind == "image":
        return _patches(config, tokens, pixels)
    frames = pixels[2]
    if config.video_pooling != "none" or tokens % frames:
        raise ValueError(
            f"video_pooling={config.video_pooling!r} makes one token of several frames or patches, so no token lies "
            "at one place; method='occlusion' does without tokens"
        )
    grid = _patches(config, tokens // frames, pixels)
    return grid._replace(shape=(frames, *grid.shape))


def _check_places(resampler: Any, side: str) -> None:
    if resampler is not None:
        raise ValueError(
            f"{side}_resampler_config makes tokens that read the whole item, so none lies at one place; "
            "method='occlusion' does without tokens"
        )


def _patches(config: Any, tokens: int, pixels: torch.Size) -> Grid:
    """Rows and columns of patches, and the tokens before them."""
    tower, (height, width) = config.vision_config, (pixels[-2], pixels[-1])
    if isinstance(tower, MMConvConfig):
        rows, columns, side = tower.grid(height), tower.grid(width), tower.total_stride
        cell = (float(side), float(side))
    elif isinstance(tower, MMVisionConfig):
        patch = tower.patch_size
        lead = tower.use_cls_token + tower.num_register_tokens - (config.vision_feature_select_strategy == "default")
        return Grid(lead, (height // patch, width // patch), (float(patch), float(patch)))
    elif isinstance(getattr(tower, "patch_size", None), int):
        patch = tower.patch_size
        rows, columns, cell = height // patch, width // patch, (float(patch), float(patch))
        if rows * columns > tokens:  # towers that merge patches on their way (Swin)
            rows, columns, cell = _as_map(tokens, height, width)
    else:
        rows, columns, cell = _as_map(tokens, height, width)
    lead = tokens - rows * columns
    if lead < 0:
        raise ValueError(
            f"{tokens} tokens of a picture of {height} x {width} pixels do not lie on a grid of {rows} x {columns}; "
            "method='occlusion' does without tokens"
        )
    return Grid(lead, (rows, columns), cell)


def _as_map(tokens: int, height: int, width: int) -> tuple[int, int, tuple[float, float]]:
    """The grid of the picture's own aspect with that many places."""
    rows = max(1, round(math.sqrt(tokens * height / width)))
    columns = tokens // rows
    return rows, columns, (height / rows, width / columns)


def gathered(weights: np.ndarray, sources: np.ndarray, kind: str, item: int, grid: Grid) -> np.ndarray:
    """Weights (W, S) of the context tokens as (W, *grid.shape) of one item; places without a token are 0."""
    own = (sources[:, 0] == KINDS.index(kind)) & (sources[:, 1] == item)
    frames = grid.shape[0] if len(grid.shape) == 3 else 1
    places = math.prod(grid.shape) // frames
    frame, position = np.divmod(sources[own, 2], grid.lead + places)
    real = position >= grid.lead
    flat = np.zeros((len(weights), frames * places), weights.dtype)
    flat[:, frame[real] * places + position[real] - grid.lead] = weights[:, own][:, real]
    return flat.reshape(len(weights), *grid.shape)
