"""How much of a number comes from each modality, by leaving modalities out: every fusion, every head.

    contribution of m = mean over the orders in which modalities may come of number(with m) - number(without m)

(Shapley 1953). Contributions add up to number(everything) - number(nothing). Under "concat" and "sum" before a linear
head the contribution of m is what the head makes of its own part, w . (W_m v_m). W numbers.
"""

from collections.abc import Callable, Collection, Mapping
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import torch

from ..configuration.tower_kinds import heard_shape
from ..modeling_mm.core.input_checks import MEDIA_INPUTS


def kinds_in(inputs: Mapping[str, Any]) -> list[str]:
    """The kinds of media that inputs hold."""
    return list(dict.fromkeys(what.kind for name, what in MEDIA_INPUTS.items() if inputs.get(name) is not None))


def without(config: Any, inputs: Mapping[str, Any], kinds: Collection[str]) -> dict[str, Any]:
    """The inputs with the items of these kinds absent, by their masks.

    Media inside the text keep their places, which need tokens: their values are 0, of a picture the mean colour.
    """
    found = dict(inputs)
    for name, what in MEDIA_INPUTS.items():
        value, mask = inputs.get(name), inputs.get(what.mask)
        if value is None or what.kind not in kinds:
            continue
        if config.media_in_text:
            found[name] = torch.zeros_like(value)
            continue
        if mask is None:
            slots = 1 if value.ndim == len(what.shape or heard_shape(config.audio_config)) + 1 else value.shape[1]
            frames = value.shape[-4:-3] if what.kind == "video" else ()
            mask = value.new_zeros(len(value), slots, *frames, dtype=torch.bool)
        found[what.mask] = torch.zeros_like(mask)
        if what.kind == "image" and inputs.get("image_grids") is not None:  # no picture has tiles
            found["image_grids"] = torch.zeros_like(inputs["image_grids"])
    return found


def contributions(number: Callable[[frozenset[str]], torch.Tensor], names: list[str]) -> dict[str, np.ndarray]:
    """{name: float32 (W,)} of `number`, which takes the modalities that are left out and gives (W,)."""
    values = {
        frozenset(out): number(frozenset(out)).double()
        for count in range(len(names) + 1)
        for out in combinations(names, count)
    }
    found = {}
    for name in names:
        total: Any = 0
        for out, value in values.items():
            if name not in out:
                rest = len(names) - len(out) - 1  # that are there beside it
                weight = factorial(rest) * factorial(len(out)) / factorial(len(names))
                total = total + weight * (value - values[out | {name}])
        found[name] = total.float().numpy(force=True)
    return found


def shares_of(contributed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{name: float32 (W,)}, the sizes of the contributions, adding up to 1; 0 where nothing contributed."""
    sizes = {name: np.abs(value) for name, value in contributed.items()}
    total: Any = sum(sizes.values())
    return {name: np.where(total > 0, size / np.where(total > 0, total, 1), 0) for name, size in sizes.items()}
