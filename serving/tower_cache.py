"""What the image tower makes of pictures, kept by the SHA-256 of their bytes: a picture is encoded once.

S tokens of the tower, Dv its width.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..modeling_mm.core.input_checks import MediaItems
from ..modeling_mm.towers.any_tower import run_tower


class Seen(NamedTuple):
    """Of one picture: tokens (S, Dv), and the tower's own vector (Dv,) where it has one."""

    values: torch.Tensor
    pooled: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        return sum(one.numel() * one.element_size() for one in self if one is not None)


class TowerCache:
    """The latest pictures, up to a number of bytes.

    Args:
        base: an MMModel. max_bytes: of tokens and vectors; 0 keeps nothing.
        on_look: called with whether a picture was there, for each that is asked for.
    """

    def __init__(self, base: Any, max_bytes: int = 256 << 20, on_look: Callable[[bool], Any] = lambda hit: None):
        self.base, self.max_bytes, self.on_look = base, max_bytes, on_look
        self._held: OrderedDict[str, Seen] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def __contains__(self, key: str) -> bool:
        return key in self._held

    def get(self, key: str) -> Seen | None:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    @torch.no_grad()
    def of(self, keys: Sequence[str], pixels: Mapping[str, torch.Tensor]) -> list[Seen]:
        """Of pictures by key; those that are not held come from their pixels (1, C, H, W), all in one run."""
        found: dict[str, Seen] = {}
        for key in dict.fromkeys(keys):
            seen = self.get(key)
            self.on_look(seen is not None)
            if seen is not None:
                found[key] = seen
        lacking = [key for key in dict.fromkeys(keys) if key not in found]
        if lacking:
            made = self._run(torch.cat([pixels[key] for key in lacking]))
            for key, seen in zip(lacking, made, strict=True):
                found[key] = seen
                self._put(key, seen)
        return [found[key] for key in keys]

    def _run(self, pixels: torch.Tensor) -> list[Seen]:
        tower = self.base.vision_tower
        weight = next(tower.parameters())
        items = MediaItems(pixels[:, None].to(weight.device, weight.dtype))
        seen = run_tower(tower, items, **self.base.tower_reads["vision"])
        pooled = [None] * len(pixels) if seen.pooled is None else [one.clone() for one in seen.pooled[:, 0]]
        return [Seen(values.clone(), one) for values, one in zip(seen.values[:, 0], pooled, strict=True)]

    def _put(self, key: str, seen: Seen) -> None:
        with self._lock:
            if key in self._held or seen.nbytes > self.max_bytes:
                return
            self._held[key] = seen
            self._bytes += seen.nbytes
            while self._bytes > self.max_bytes:
                _, old = self._held.popitem(last=False)
                self._bytes -= old.nbytes


def stacked(seen: Sequence[Sequence[Seen]], side: str = "visual") -> dict[str, torch.Tensor]:
    """Inputs of a model: of rows with as many pictures each."""
    values = torch.stack([torch.stack([one.values for one in row]) for row in seen])  # (B, N, S, Dv)
    inputs = {f"{side}_embeds": values[:, 0] if values.shape[1] == 1 else values}
    if all(one.pooled is not None for row in seen for one in row):
        pooled = torch.stack([torch.stack([one.pooled for one in row if one.pooled is not None]) for row in seen])
        inputs[f"{side}_pooler_output"] = pooled[:, 0] if pooled.shape[1] == 1 else pooled
    return inputs
