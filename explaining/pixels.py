"""Each picture and video of a context, explained by changing it: of words, classes or pairs.

N pictures per context, W numbers of a row.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from .changed_pictures import CELLS, Numbers, integrated_gradients, lost_by_occlusion
from .explanation import ItemWeights, Place
from .grids import PIXELS, Grid
from .placing import Seen, patches_shape, pixels_shape, place_of
from .reading import media_row, one_context
from .shares import kinds_in

METHODS_OF_PIXELS = ("occlusion", "integrated_gradients")

NumbersOfMedia = Callable[[dict[str, Any]], torch.Tensor]  # media of n contexts -> (n, W)


def items_by_pixels(
    config: Any, inputs: Mapping[str, Any], context: int, numbers: NumbersOfMedia, views: list, method: str
) -> list[ItemWeights]:
    """The weights, not negative, of each picture (W, rows, columns) and video (W, frames, rows, columns) of a context.

    A video is changed one frame at a time. No items where the media have no pixels: sounds and ready tower output.

    Args:
        numbers: gives those of a row, with each of n contexts in place of its own.
    """
    kinds = [kind for kind, name in PIXELS.items() if torch.is_tensor(inputs.get(name))]
    if not kinds_in(inputs):
        raise ValueError(f"inputs holds no media, which this method changes or leaves out; got {sorted(inputs)}")
    items, row = [], media_row(inputs, context)
    for kind in kinds:
        name, shape = PIXELS[kind], pixels_shape(inputs, kind)
        assert shape is not None
        mask = inputs.get("pixel_attention_mask" if kind == "image" else "video_attention_mask")
        patches = patches_shape(config, inputs, kind) or (CELLS, CELLS)
        whole = inputs[name][row].reshape(shape[1:])
        own = views[row] if views and kind == "image" else []
        if any(one.tiles for one in own):
            numbers_of = partial(_numbers_of, numbers, one_context(inputs, context), name, whole)
            items += _of_tiles(numbers_of, whole, mask, own, row, method, patches)
            continue
        for number in range(shape[1]):
            there = None if mask is None else mask[row].reshape(shape[1], -1)[number].bool()
            if there is not None and not bool(there.any()):
                continue  # absent
            frames = [(number,)] if kind == "image" else [(number, frame) for frame in range(shape[2])]
            found = []
            for place in frames:
                of_frame = _numbers_of(numbers, one_context(inputs, context), name, whole, place)
                if kind == "video" and there is not None and not bool(there[place[-1]]):
                    found.append(torch.zeros_like(found[0]))  # padding, after the frames that are there
                elif method == "occlusion":
                    found.append(lost_by_occlusion(of_frame, whole[place], CELLS if kind == "image" else CELLS // 2))
                else:
                    found.append(integrated_gradients(of_frame, whole[place], patches))
            weights = found[0] if kind == "image" else torch.stack(found, 1)
            cells = weights.shape[1:]
            grid = Grid(0, tuple(cells), (shape[-2] / cells[-2], shape[-1] / cells[-1]))
            where = place_of(grid, inputs, kind, views, context, number)
            items.append(ItemWeights(kind, number, weights.clamp(min=0).float().numpy(force=True), where))
    return items


def _of_tiles(
    numbers_of: Callable[[Any], Numbers],
    whole: torch.Tensor,
    mask: Any,
    own: list[Seen],
    row: int,
    method: str,
    patches: Any,
) -> list[ItemWeights]:
    """The weights of each picture of a context, put together from its tiles among those of the context, `whole`
    (N, C, H, V): a place is changed in all tiles that show it.

    Raises: ValueError for pictures that are cut into other numbers of tiles than there are.
    """
    cut = [len(one.view) for one in own]
    there = len(whole) if mask is None else int(mask[row].sum())
    if sum(cut) != there:
        raise ValueError(
            f"the pictures of context {row} are cut into {cut} tiles, but inputs holds {there}: give the pictures "
            "that the processor read"
        )
    items, first = [], 0
    for number, one in enumerate(own):
        (width, height), boxes = one.size, one.view
        places = slice(first, first + len(boxes))
        tiles = [((box.top / height, box.height / height), (box.left / width, box.width / width)) for box in boxes]
        first += len(boxes)
        if method == "occlusion":
            weights = lost_by_occlusion(numbers_of((places,)), whole[places], tiles=tiles)
        else:  # as many parts as the smallest tile has patches
            shape = tuple(round(count / min(spans[side][1] for spans in tiles)) for side, count in enumerate(patches))
            weights = integrated_gradients(numbers_of((places,)), whole[places], shape, tiles=tiles)
        rows, columns = weights.shape[1:]
        place = Place(0.0, 0.0, width / columns, height / rows, width, height)
        items.append(ItemWeights("image", number, weights.clamp(min=0).float().numpy(force=True), place))
    return items


def _numbers_of(
    numbers: NumbersOfMedia, media: dict[str, Any], name: str, whole: torch.Tensor, place: tuple[Any, ...]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Of n pictures (n, C, H, V), or n times the tiles of one, in a place of those of a context, (N, ..., C, H, V)."""

    def of_changed(changed: torch.Tensor) -> torch.Tensor:
        own = whole.expand(len(changed), *whole.shape).clone()
        own[(slice(None), *place)] = changed
        others = {
            key: value.expand(len(changed), *value.shape[1:]) if torch.is_tensor(value) else value
            for key, value in media.items()
        }
        return numbers({**others, name: own})

    return of_changed
