"""Masked image modelling: what the head says of masked patches, against their pixels or another tower's features.

n pictures, L patches of p x p pixels, C colours, D the tower's width.
"""

import torch
from torch import nn
from torch.nn import functional

from ...configuration.vision import MMVisionConfig
from ..towers.vit import MMVisionModel


def build_masked_image_head(config: MMVisionConfig, target: str) -> nn.Linear:
    """Tokens (..., D) -> pixels of a patch (..., C*p*p), or features (..., D)."""
    pixels = config.num_channels * config.patch_size**2
    return nn.Linear(config.hidden_size, pixels if target == "pixels" else config.hidden_size)


def patches_of(pixel_values: torch.Tensor, size: int) -> torch.Tensor:
    """(n, C, height, width) -> (n, L, C*p*p), patches in row-major order."""
    return functional.unfold(pixel_values, size, stride=size).transpose(1, 2)


def patch_tokens(states: torch.Tensor, config: MMVisionConfig) -> torch.Tensor:
    """(n, S, D) -> (n, L, D), without CLS and registers."""
    return states[:, config.use_cls_token + config.num_register_tokens :]


def pixel_errors(predicted: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """(n, L), the mean distance |x - y| over the normalised pixels of a patch (SimMIM, arXiv:2111.09886, §3.5)."""
    wide = torch.promote_types(predicted.dtype, torch.float32)
    return (predicted.to(wide) - patches.to(wide)).abs().mean(-1)


def feature_errors(predicted: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """(n, L), the mean square over the features of a patch, normalised per patch (data2vec, arXiv:2202.03555)."""
    wide = torch.promote_types(predicted.dtype, torch.float32)
    target = functional.layer_norm(features.to(wide), features.shape[-1:])
    return (predicted.to(wide) - target).square().mean(-1)


@torch.no_grad()
def copy_tower(target: MMVisionModel, tower: MMVisionModel) -> None:
    """The target starts as the tower is, and is never trained."""
    target.load_state_dict(tower.state_dict())
    target.requires_grad_(False)
