"""EMA: an average of the weights over the steps, evaluated and saved in their place.

average <- d average + (1 - d) weights after each step, d = min(decay, (1 + step) / (10 + step))
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

FILE = "ema.safetensors"


class WeightAverage:
    """The average of the weights that are trained; d grows to `decay` so that short runs forget their start."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        # fp32 at least: in bf16 a step of 1 - d would often be rounded away
        self.held = {
            name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            for name, weight in self.trained.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.trained.items():
            self.held[name].lerp_(weight.detach().to(self.held[name].dtype), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the average as its weights, for a while."""
        own = {name: weight.detach().clone() for name, weight in self.trained.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self.trained.items():
                    weight.copy_(own[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Puts the average in the place of the weights, for good."""
        for name, weight in self.trained.items():
            weight.copy_(self.held[name])

    def save(self, folder: str | Path) -> None:
        save_file({name: value.contiguous() for name, value in self.held.items()}, Path(folder) / FILE)

    def load(self, folder: str | Path) -> None:
        """The average of a checkpoint. OSError for one without it, ValueError for that of another model."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise OSError(f"{path} is missing: the checkpoint was saved without ema; start anew, or leave ema out")
        found = load_file(path)
        shapes = {name: value.shape for name, value in found.items()}
        if shapes != {name: value.shape for name, value in self.held.items()}:
            raise ValueError(f"{path} is the average of other weights than those that are trained")
        for name, value in found.items():
            self.held[name].copy_(value)
