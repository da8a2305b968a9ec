"""MMContrastiveHead: pooled vectors of media and texts as embeddings that are compared.

B contexts, R rows (texts), P projection_dim.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ...configuration.mm import MMConfig
from ..core.inputs_outputs import MMContextOutput
from ..fusion.context import KINDS, TOWER_KINDS
from ..losses.contrastive import info_nce_loss, logit_scale, sigmoid_loss, similarities
from ..losses.positive_pairs import Pairs
from ..losses.ring_sigmoid import ring_sigmoid_loss


class MMContrastiveHead(nn.Module):
    """Pooled vectors to embeddings of one width, and the learned scale of their similarities."""

    # nn.Linear, nn.Identity where projected_sides leaves it out, or None where the config has no such tower
    vision: Any
    audio: Any
    text: Any

    def __init__(self, config: MMConfig):
        super().__init__()
        self.config = config
        for name in ("vision", "audio", "text"):
            self.add_module(name, self._projection(name))
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        bias = config.logit_bias_init_value
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def _projection(self, side: str) -> nn.Module | None:
        config, width = self.config, self.config.pooled_widths.get(side)
        if width is None:
            return None
        if config.projected_sides is not None and side not in config.projected_sides:
            return nn.Identity()
        return nn.Linear(width, config.projection_dim, bias=config.projection_bias)

    def of_context(self, context: MMContextOutput) -> torch.Tensor:
        """(B, P), of both towers their sum; not normalised."""
        sources = context.token_sources
        if context.pooler_outputs is None or sources is None:
            if context.pooler_output is None:
                raise ValueError("encoder_outputs has no pooler_output, from which the embedding is computed")
            hears = self.vision is None or (self.audio is not None and context.audio_output is not None)
            return self.get_submodule("audio" if hears else "vision")(context.pooler_output)
        embeds = torch.zeros((), device=sources.device)
        for name, kinds in TOWER_KINDS.items():
            numbers = torch.tensor([KINDS.index(kind) for kind in kinds], device=sources.device)
            has_any = torch.isin(sources[..., 0], numbers).any(1, keepdim=True)
            embed = self.get_submodule(name)(context.pooler_outputs[name])
            embeds = embeds + embed.masked_fill(~has_any, 0)
        return embeds

    def forward(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """() by which similarities are multiplied, and () that is added, or None.

        Called as a module so that offloading hooks run.
        """
        return logit_scale(self.logit_scale, self.config.logit_scale_max), self.logit_bias

    def scale(self) -> torch.Tensor:
        """(), by which similarities are multiplied."""
        return self()[0]

    def logits(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
        """(B, R)."""
        scale, bias = self()
        return similarities(image_embeds, text_embeds, scale) + (0 if bias is None else bias)

    def loss(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        scale, bias = self()
        if self.config.contrastive_loss == "sigmoid":
            loss = ring_sigmoid_loss if self.config.contrastive_exchange == "ring" else sigmoid_loss
            return loss(image_embeds, text_embeds, pairs, scale, bias)
        return info_nce_loss(image_embeds, text_embeds, pairs, scale)


def normalised(vectors: Any) -> torch.Tensor:
    """Vectors (..., P) at length 1, computed in fp32 at least; zeros stay zeros."""
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return functional.normalize(wide, dim=-1).to(vectors.dtype)
