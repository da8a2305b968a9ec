"""MMContrastiveHead: pooled vectors of media and texts as embeddings that are compared.

B contexts, R rows (texts), P projection_dim.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from ...configuration.mm import MMConfig
from ..core.inputs_outputs import MMContextOutput
from ..fusion.context import KINDS, TOWER_KINDS
from ..losses.contrastive import info_nce_loss, logit_scale, sigmoid_loss, similarities
from ..losses.positive_pairs import Pairs
from ..losses.ring_sigmoid import ring_sigmoid_loss


class MMTwoLayerProjection(nn.Module):
    """second(act(first x)), as CLAP projects both sides and, without the activation, AltCLIP its texts."""

    def __init__(self, config: MMConfig, width: int, hidden: int):
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.act = nn.Identity() if config.projection_act is None else ACT2FN[config.projection_act]
        self.second = nn.Linear(hidden, config.projection_dim, bias=config.projection_bias)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """(n, width) -> (n, P)."""
        return self.second(self.act(self.first(pooled)))


class MMContrastiveHead(nn.Module):
    """Pooled vectors to embeddings of one width, and the learned scale of their similarities."""

    # nn.Linear or two of them, nn.Identity where projected_sides leaves it out, or None where the config has no such
    # tower
    vision: Any
    audio: Any
    text: Any

    def __init__(self, config: MMConfig):
        super().__init__()
        self.config = config
        for name in ("vision", "audio", "text"):
            self.add_module(name, self._projection(name))
        start = float(config.logit_scale_init_value)
        self.logit_scale = nn.Parameter(torch.tensor(start))
        self.text_logit_scale = nn.Parameter(torch.tensor(start)) if config.text_logit_scale else None
        bias = config.logit_bias_init_value
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def _projection(self, side: str) -> nn.Module | None:
        config, width = self.config, self.config.pooled_widths.get(side)
        if width is None:
            return None
        if config.projected_sides is not None and side not in config.projected_sides:
            return nn.Identity()
        hidden = (config.projection_hidden_sizes or {}).get(side)
        if hidden is not None:
            return MMTwoLayerProjection(config, width, hidden)
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

    def forward(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """() by which the similarities of media with texts are multiplied, those of texts with media, and () that is
        added, or None.

        Called as a module so that offloading hooks run.
        """
        limit, own = self.config.logit_scale_max, self.text_logit_scale
        scale = logit_scale(self.logit_scale, limit)
        return scale, scale if own is None else logit_scale(own, limit), self.logit_bias

    def scale(self) -> torch.Tensor:
        """(), by which similarities of media with texts are multiplied."""
        return self()[0]

    def logits(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
        """(B, R)."""
        return self.logits_both_ways(image_embeds, text_embeds)[0]

    def logits_both_ways(
        self, image_embeds: torch.Tensor, text_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, R) and (R, B)."""
        scale, text_scale, bias = self()
        shift = 0 if bias is None else bias
        of_images = similarities(image_embeds, text_embeds, scale) + shift
        if self.text_logit_scale is None:
            return of_images, of_images.T
        return of_images, similarities(text_embeds, image_embeds, text_scale) + shift

    def loss(self, image_embeds: torch.Tensor, text_embeds: torch.Tensor, pairs: Pairs) -> torch.Tensor:
        scale, text_scale, bias = self()
        if self.config.contrastive_loss == "sigmoid":
            loss = ring_sigmoid_loss if self.config.contrastive_exchange == "ring" else sigmoid_loss
            return loss(image_embeds, text_embeds, pairs, scale, bias)
        smoothing = self.config.contrastive_label_smoothing
        return info_nce_loss(image_embeds, text_embeds, pairs, (scale, text_scale), smoothing)


def normalised(vectors: Any) -> torch.Tensor:
    """Vectors (..., P) at length 1, computed in fp32 at least; zeros stay zeros."""
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return functional.normalize(wide, dim=-1).to(vectors.dtype)
