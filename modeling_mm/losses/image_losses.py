"""Losses of pictures that a model makes: perceptual distance, and a discriminator of patches.

Shapes: B pictures of H x W pixels, C channels, h x w patches.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn


class PerceptualLoss(nn.Module):
    """The distance of two pictures by what a frozen convolutional tower makes of them, layer by layer.

    Each map is divided by the length of its channels at each position; the loss is the mean over positions of the
    squared distance, and the mean over maps: LPIPS without learned weights.

    Source: Zhang et al. 2018 (arXiv:1801.03924).

    Args:
        tower: an `MMConvModel`; frozen here, and kept in evaluation.
        mean, std: what the tower's pictures were normalised by, one number a channel.
        num_stages: maps of the stem and of so many first stages are compared.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, tower: nn.Module, mean: Sequence[float], std: Sequence[float], num_stages: int = 5):
        super().__init__()
        stages = list(tower.stages)  # pyright: ignore[reportArgumentType]: of an MMConvModel
        if not 1 <= num_stages <= len(stages):
            raise ValueError(f"num_stages={num_stages}; the tower has 1..{len(stages)}")
        self.parts = nn.ModuleList([tower.stem, *stages[:num_stages]])  # pyright: ignore[reportArgumentType]
        self.parts.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "PerceptualLoss":
        return super().train(False)

    def maps(self, pixels: torch.Tensor) -> Iterator[torch.Tensor]:
        """(B, C, H, W) in 0..1 -> the maps of the stem and the stages, channels of length 1 at each position."""
        x = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        for part in self.parts:
            x = part(x)
            yield F.normalize(x, dim=1)

    def forward(self, made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """Two batches (B, C, H, W) in 0..1 -> scalar; gradients reach `made` only."""
        with torch.no_grad():
            wanted = list(self.maps(true))
        distances = [(x - y).square().sum(1).mean() for x, y in zip(self.maps(made), wanted, strict=True)]
        return torch.stack(distances).mean()


class PatchDiscriminator(nn.Module):
    """Says of each patch of a picture whether it is true (above 0) or made (below).

    Source: Isola et al. 2017 (arXiv:1611.07004); here normalised per picture, so that no picture changes another.

    Args:
        channels: of a picture.
        width: channels of the first layer; each of `num_layers` halves the sides, and all but the first double it.
    """

    def __init__(self, channels: int = 3, width: int = 32, num_layers: int = 3):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for _ in range(num_layers - 1):
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GroupNorm(1, 2 * width), nn.LeakyReLU(0.2)]
            width *= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in 0..1 -> (B, 1, h, w)."""
        return self.layers(2 * pixels - 1)


def discriminator_hinge_loss(true: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """mean max(0, 1 - true) + mean max(0, 1 + made), halved: scores of true and of made patches, any shapes.

    Source: Lim & Ye 2017 (arXiv:1705.02894), as in Esser et al. 2021 (arXiv:2012.09841).
    """
    return (F.relu(1 - true).mean() + F.relu(1 + made).mean()) / 2


def generator_hinge_loss(made: torch.Tensor) -> torch.Tensor:
    """-mean of the scores of made patches: the generator's side of `discriminator_hinge_loss`."""
    return -made.mean()


def adaptive_weight(loss: torch.Tensor, adversarial: torch.Tensor, weight: nn.Parameter) -> torch.Tensor:
    """The factor of an adversarial loss by which its gradient is as long as that of `loss`, at `weight`; 1e4 at most.

    Source: Esser et al. 2021 (arXiv:2012.09841), equation 7; `weight` is the decoder's last layer.
    """
    by_loss, by_adversarial = (torch.autograd.grad(one, weight, retain_graph=True)[0] for one in (loss, adversarial))
    return (by_loss.norm() / (by_adversarial.norm() + 1e-6)).clamp(0, 1e4).detach()
