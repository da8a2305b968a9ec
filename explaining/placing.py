"""Where the parts of what a model read lie in the pictures as they were before the processor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .explanation import ItemWeights, Place
from .grids import KINDS, PIXELS, Grid, gathered, grid_of
from .reading import media_row


def pixels_shape(inputs: Mapping[str, Any], kind: str) -> torch.Size | None:
    """(B, N, ..., C, H, V) of the pictures or videos in inputs."""
    pixels = inputs.get(PIXELS.get(kind, ""))
    if kind == "audio":
        return None
    if not torch.is_tensor(pixels):
        raise ValueError(f"inputs holds no {PIXELS[kind]}, whose size says where the tokens lie; give it, too")
    usual = 5 if kind == "image" else 6
    return pixels.shape if pixels.ndim == usual else torch.Size((len(pixels), 1, *pixels.shape[1:]))


def patches_shape(config: Any, inputs: Mapping[str, Any], kind: str) -> tuple[int, int] | None:
    """Rows and columns of an MM tower's patches."""
    pixels, tower = pixels_shape(inputs, kind), config.vision_config
    assert pixels is not None
    if hasattr(tower, "grid"):
        return tower.grid(pixels[-2]), tower.grid(pixels[-1])
    patch = getattr(tower, "patch_size", None)
    return (pixels[-2] // patch, pixels[-1] // patch) if isinstance(patch, int) else None


@dataclass(frozen=True)
class Seen:
    """A picture as a model saw it.

    picture: upright RGB, for drawings; smaller than it was, perhaps. size: (width, height) that it was.
    view: where the model's pixels lie in it, a View; of a picture that was cut into tiles what each of them shows.
    """

    picture: Any
    size: tuple[int, int]
    view: Any

    @property
    def tiles(self) -> list[Any] | None:
        """What each tile shows; None for a picture that is no tiles."""
        return self.view if isinstance(self.view, list) else None


def _reader_of(processor: Any) -> Any:
    reader = getattr(processor, "image_processor", processor)
    if not hasattr(reader, "view"):
        raise ValueError("pictures are placed by the processor that read them: give processor, too")
    return reader


def seen(processor: Any, source: Any) -> Seen:
    """A picture, in any form that the processor reads. Raises what `load_image` raises."""
    reader = _reader_of(processor)
    picture = reader.load(source)
    is_cut = getattr(processor, "tiles", None)
    view = processor.places().tiles.boxes(*picture.size) if is_cut else reader.view(picture)
    return Seen(picture, picture.size, view)


def views_of(processor: Any, pictures: Sequence[Any] | None, inputs: Mapping[str, Any]) -> list[list[Seen]]:
    """The pictures of each context: those that are `Seen` already as they are."""
    if pictures is None:
        return []
    _reader_of(processor)
    if isinstance(pictures, (str, bytes)) or not isinstance(pictures, Sequence):
        pictures = [pictures]
    contexts = len(inputs["pixel_values"]) if inputs.get("pixel_values") is not None else len(pictures)
    if len(pictures) != contexts:
        raise ValueError(f"{len(pictures)} pictures were given for {contexts} contexts; give one, or a list, for each")
    several = [list(one) if isinstance(one, (list, tuple)) else [one] for one in pictures]
    return [[one if isinstance(one, Seen) else seen(processor, one) for one in own] for own in several]


def place_of(grid: Grid, inputs, kind: str, views, context: int, number: int) -> Place | None:
    """Where the patches of a picture lie in it; of a video and without pictures, in the model's own pixels."""
    if grid.cell is None:
        return None
    pixels = pixels_shape(inputs, kind)
    assert pixels is not None
    height, width = grid.cell
    own = views[media_row(inputs, context)] if views else []
    if kind != "image" or number >= len(own) or own[number].tiles:
        return Place(0.0, 0.0, width, height, pixels[-1], pixels[-2])
    view = own[number].view
    return Place(view.left, view.top, width * view.across, height * view.down, *own[number].size)


def items_of(
    config: Any, inputs: Mapping[str, Any], context: int, weights: np.ndarray, sources: np.ndarray, views: list
) -> tuple[list[ItemWeights], dict[str, np.ndarray]]:
    """Weights (W, S) over the tokens of a context, with sources (S, 3), by item; and the shares (W,) of each kind.

    Raises: ValueError where no token lies at a place.
    """
    items, shares = [], {}
    for kind in KINDS:
        own = sources[sources[:, 0] == KINDS.index(kind)]
        if not len(own):
            continue
        shares[kind] = weights[:, sources[:, 0] == KINDS.index(kind)].sum(1)
        if kind == "text":
            continue
        for number in sorted(set(own[:, 1].tolist())):
            length = int(own[own[:, 1] == number, 2].max()) + 1
            grid = grid_of(config, kind, length, pixels_shape(inputs, kind))
            of_item = gathered(weights, sources, kind, number, grid)
            items.append(ItemWeights(kind, number, of_item, place_of(grid, inputs, kind, views, context, number)))
    if not items:
        raise ValueError(
            "the decoder of this model reads one vector of its text encoder, which lies at no place of a picture; "
            "method='occlusion' and 'integrated_gradients' do without"
        )
    return items, shares
