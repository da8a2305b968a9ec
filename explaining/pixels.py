"""Each picture of a context, explained by changing it: of words, classes or pairs.

N pictures per context, W numbers of a row.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .changed_pictures import CELLS, integrated_gradients, lost_by_occlusion
from .explanation import ItemWeights
from .grids import Grid
from .placing import patches_shape, pixels_shape, place_of
from .reading import media_in

METHODS_OF_PIXELS = ("occlusion", "integrated_gradients")

NumbersOfMedia = Callable[[dict[str, Any]], torch.Tensor]  # media of n contexts -> (n, W)


def items_by_pixels(
    config: Any, inputs: Mapping[str, Any], context: int, numbers: NumbersOfMedia, views: list, method: str
) -> list[ItemWeights]:
    """The weights (W, rows, columns), not negative, of each picture of a context.

    Args:
        numbers: gives those of a row, with each of n contexts in place of its own.
    """
    if not torch.is_tensor(inputs.get("pixel_values")):
        raise ValueError("inputs holds no pixel_values, which this method changes; use method='attention'")
    shape: Any = pixels_shape(inputs, "image")
    mask = inputs.get("pixel_attention_mask")
    items = []
    for number in range(shape[1]):
        if mask is not None and mask.ndim >= 2 and not bool(mask[context].reshape(shape[1], -1)[number].any()):
            continue  # absent
        pixels, media = _media_of(inputs, context)

        def of_picture(changed: torch.Tensor, number: int = number, pixels=pixels, media=media) -> torch.Tensor:
            own = pixels.expand(len(changed), *pixels.shape[1:]).clone()
            own[:, number] = changed
            others = {
                name: value.expand(len(changed), *value.shape[1:]) if torch.is_tensor(value) else value
                for name, value in media.items()
            }
            return numbers({**others, "pixel_values": own})

        if method == "occlusion":
            cells = (CELLS, CELLS)
            weights = lost_by_occlusion(of_picture, pixels[0, number])
        else:
            cells = patches_shape(config, inputs) or (CELLS, CELLS)
            weights = integrated_gradients(of_picture, pixels[0, number], cells)
        grid = Grid(0, cells, (shape[-2] / cells[0], shape[-1] / cells[1]))
        place = place_of(grid, inputs, "image", views, context, number)
        items.append(ItemWeights("image", number, weights.clamp(min=0).float().numpy(force=True), place))
    return items


def _media_of(inputs: Mapping[str, Any], context: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """pixel_values (1, N, C, H, V) of a context, and its other media."""
    media = {
        name: value[context : context + 1] if torch.is_tensor(value) else value
        for name, value in media_in(inputs).items()
        if name not in ("pixel_values", "media_index")
    }
    own = inputs["pixel_values"][context : context + 1]
    return own if own.ndim == 5 else own[:, None], media
