"""Layer-wise learning rates: the rate of a layer is a share of that of the layer above it (arXiv:1906.08237)."""

import re
from typing import Any

import torch
from torch import nn

_LAYER = re.compile(
    r"(?P<stack>.*?\b\w*(?:tower|language_model|text_encoder)\b.*?\b(?:layers?|blocks|stages|h))\.(?P<n>\d+)\."
)
_TOWER = re.compile(r".*?\b(?:vision_tower|audio_tower|language_model|text_encoder)\b")
_BOTTOM = re.compile(r"embed|patch|stem|cls_token|register|mask_token|position|conv1")


def rates(model: nn.Module, decay: float) -> dict[str, float]:
    """name of each weight -> its share of the learning rate.

    The last layer of a tower, and all that is in no tower, has 1; the layer below `decay`, and so on; embeddings come
    below the first layer.
    """
    names = [name for name, _ in model.named_parameters()]
    places: dict[str, tuple[str, int]] = {}
    for name in names:
        layer, tower = _LAYER.match(name), _TOWER.match(name)
        if tower is None:
            continue
        if layer is not None:
            places[name] = (tower[0], int(layer["n"]) + 1)
        elif _BOTTOM.search(name[tower.end() :]):
            places[name] = (tower[0], 0)
    tops: dict[str, int] = {}
    for tower, place in places.values():
        tops[tower] = max(tops.get(tower, 0), place)
    return {name: decay ** (tops[places[name][0]] - places[name][1]) if name in places else 1.0 for name in names}


def set_rates(optimizer: torch.optim.Optimizer, model: nn.Module, decay: float) -> None:
    """Splits the groups of an optimizer that has not stepped, one for each rate."""
    shares = rates(model, decay)
    of = {id(weight): shares[name] for name, weight in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        found: dict[float, list[Any]] = {}
        for weight in group["params"]:
            found.setdefault(of[id(weight)], []).append(weight)
        groups += [{**group, "params": held, "lr": group["lr"] * share} for share, held in found.items()]
    optimizer.param_groups[:] = groups
