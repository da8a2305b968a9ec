"""Losses of pictures: perceptual distance beside its formula, and the hinge losses of a discriminator."""

import pytest
import torch
import torch.nn.functional as F

from comparing import close
from mm import MMConvConfig, MMConvModel
from mm.losses import (
    PatchDiscriminator,
    PerceptualLoss,
    adaptive_weight,
    discriminator_hinge_loss,
    generator_hinge_loss,
)

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture()
def tower() -> MMConvModel:
    torch.manual_seed(0)
    stage = {"block": "residual", "channels": 8, "stride": 2}
    return MMConvModel(MMConvConfig(image_size=16, stem={"channels": 6}, stages=[stage, {**stage, "channels": 12}]))


def test_the_perceptual_loss_is_the_distance_of_unit_vectors(tower):
    loss = PerceptualLoss(tower, MEAN, STD, num_stages=2)
    a, b = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    x, y, expected = (a - mean) / std, (b - mean) / std, []
    for part in (tower.stem, *tower.stages):
        x, y = part(x), part(y)
        length_x, length_y = x.norm(dim=1, keepdim=True) + 1e-12, y.norm(dim=1, keepdim=True) + 1e-12
        expected.append((x / length_x - y / length_y).square().sum(1).mean())
    close(loss(a, b), sum(expected) / 3)
    assert loss(a, a) == 0


def test_the_tower_stays_frozen_and_only_what_was_made_gets_a_gradient(tower):
    loss = PerceptualLoss(tower, MEAN, STD, num_stages=1).train()
    assert not any(part.training for part in loss.parts)
    assert not any(weight.requires_grad for weight in loss.parameters())
    made, true = torch.rand(2, 3, 16, 16, requires_grad=True), torch.rand(2, 3, 16, 16, requires_grad=True)
    loss(made, true).backward()
    assert made.grad is not None and made.grad.abs().sum() > 0 and true.grad is None
    with pytest.raises(ValueError, match=r"num_stages=3; the tower has 1\.\.2"):
        PerceptualLoss(tower, MEAN, STD, num_stages=3)


def test_the_discriminator_scores_each_patch_of_each_picture_by_itself():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=8)
    pixels = torch.rand(3, 3, 32, 32)
    scores = discriminator(pixels)
    assert scores.shape == (3, 1, 4, 4)
    close(discriminator(pixels[1:2])[0].detach(), scores[1].detach())


def test_the_hinge_losses_are_their_formula():
    true, made = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.5])
    close(discriminator_hinge_loss(true, made), torch.tensor(((0 + 0.5 + 2) / 3 + (0 + 1.5) / 2) / 2))
    close(generator_hinge_loss(made), torch.tensor(0.75))


def test_the_adaptive_weight_makes_both_gradients_equally_long():
    weight = torch.nn.Parameter(torch.randn(4, 3))
    x = torch.randn(5, 3)
    y = F.linear(x, weight)
    loss, adversarial = y.square().mean(), 7 * y.abs().mean()
    factor = adaptive_weight(loss, adversarial, weight)
    (one,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (other,) = torch.autograd.grad(factor * adversarial, weight)
    close(other.norm(), one.norm(), bound=1e-4)
    assert not factor.requires_grad
