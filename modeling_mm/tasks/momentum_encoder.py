"""MMMomentumEncoder: a copy of what embeds media and texts that follows slowly, and the queues of what it saw.

See `momentum.py` for the loss. B contexts, R rows, P projection_dim.
"""

from typing import Any

import torch
from torch import nn

from ...configuration.mm import MMConfig
from ..losses.momentum import MomentumContrast, momentum_update
from ..model import MMModel
from .contrastive_head import MMContrastiveHead, normalised
from .contrastive_matching import MMMatchingModel


class MMMomentumEncoder(nn.Module):
    """Frozen copies of the base model and the contrastive head; saved with the class, queues included."""

    def __init__(self, config: MMConfig):
        super().__init__()
        self.model, self.itc_head = MMModel(config), MMContrastiveHead(config)
        self.contrast = MomentumContrast(config.contrastive_queue_size, config.projection_dim)
        self.momentum, self.soft_targets = config.contrastive_momentum, config.contrastive_soft_targets
        self.requires_grad_(False)

    def start_as(self, student: MMMatchingModel) -> None:
        """Takes all weights over, and forgets what the queues hold."""
        for own, theirs in self._parts(student):
            own.load_state_dict(theirs.state_dict())
        self.contrast.images.forget()
        self.contrast.texts.forget()
        self.requires_grad_(False)

    def _parts(self, student: MMMatchingModel) -> list[tuple[Any, Any]]:
        return [(self.model, student.model), (self.itc_head, student.itc_head)]

    def train(self, mode: bool = True) -> "MMMomentumEncoder":
        """The copies have no dropout; the queues change only in training."""
        super().train(False)
        self.contrast.train(mode)
        return self

    @torch.no_grad()
    def keys(self, student: MMMatchingModel, text: dict[str, Any], **media) -> tuple[torch.Tensor, torch.Tensor]:
        """Moves one step towards the student, then encodes a batch: (B, P) and (R, P), of length 1."""
        for own, theirs in self._parts(student):
            momentum_update(own, theirs, self.momentum)
        context: Any = self.model.encode_context(**media)
        texts = self.itc_head.text(self.model.read_without_media(**text).pooler_output)
        return normalised(self.itc_head.of_context(context)), normalised(texts)
