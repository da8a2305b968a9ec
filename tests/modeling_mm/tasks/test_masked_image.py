"""The "mim" loss of MMForPreTraining: what stands behind hidden patches is told from the others."""

import pytest
import torch
from torch.testing import assert_close

from comparing import close
from mm import MMForPreTraining, MMVisionModel

IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2]])
HIDDEN = torch.tensor([[True, False, False, True], [False] * 4, [True, True, False, True]])


@pytest.fixture
def trained(tiny_model):
    def build(*losses, **fields):
        settings = {"share_text_encoder": True, "pretraining_losses": dict.fromkeys(losses, 1.0), **fields}
        return tiny_model(cls=MMForPreTraining, vision_config={"use_mask_token": True}, **settings)

    return build


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def patches(pixels: torch.Tensor) -> torch.Tensor:
    """(n, 3, 16, 16) -> (n, 4, 3*8*8) by slices."""
    return torch.stack(
        [pixels[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].flatten(1) for i in range(2) for j in range(2)], 1
    )


def hidden_states(model, pixels) -> torch.Tensor:
    """(n, 4, D) of the patches, behind CLS and a register, of pictures with hidden patches."""
    return model.model.vision_tower(pixels, bool_masked_pos=HIDDEN).last_hidden_state[:, 2:]


def test_pixels_of_hidden_patches_are_told_from_the_others(trained, pixels):
    model = trained("mim")
    errors = (model.mim_head(hidden_states(model, pixels)) - patches(pixels)).abs()
    loss = model(pixel_values=pixels, bool_masked_pos=HIDDEN, return_loss=True).loss_mim
    close(loss, errors[HIDDEN].mean())


def test_features_of_hidden_patches_are_those_of_a_frozen_tower_that_sees_all(trained, pixels):
    model = trained("mim", mim_target="features")
    assert not any(parameter.requires_grad for parameter in model.mim_tower.parameters())
    whole = model.mim_tower(pixels).last_hidden_state[:, 2:]
    target = (whole - whole.mean(-1, keepdim=True)) / (whole.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    errors = (model.mim_head(hidden_states(model, pixels)) - target).square()
    loss = model(pixel_values=pixels, bool_masked_pos=HIDDEN, return_loss=True).loss_mim
    assert_close(loss, errors[HIDDEN].mean(), rtol=1e-10, atol=1e-10)


def test_a_following_tower_is_an_exponential_mean_and_follows_in_training_alone(trained, pixels):
    model = trained("mim", mim_target="features", mim_momentum=0.75)
    start = {name: value.clone() for name, value in model.mim_tower.state_dict().items()}
    tower = model.model.vision_tower.state_dict()
    given = {"pixel_values": pixels, "bool_masked_pos": HIDDEN, "return_loss": True}
    model(**given)
    assert all(torch.equal(value, start[name]) for name, value in model.mim_tower.state_dict().items())
    model.train()(**given)
    for name, value in model.mim_tower.state_dict().items():
        close(value, 0.75 * start[name] + 0.25 * tower[name])


def test_a_new_tower_of_targets_is_a_copy_and_a_saved_one_comes_back(trained, pixels, tmp_path):
    fields = {"mim_target": "features", "mim_momentum": 0.5}
    model = trained("mim", **fields)
    model.model.save_pretrained(tmp_path / "base")
    new = MMForPreTraining.from_pretrained(tmp_path / "base", dtype=torch.float64)
    for name, value in new.model.vision_tower.state_dict().items():
        assert torch.equal(value, new.mim_tower.state_dict()[name]), name
    model.save_pretrained(tmp_path / "whole")  # make_visible moved it away from the tower
    again = MMForPreTraining.from_pretrained(tmp_path / "whole", dtype=torch.float64)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(again.mim_tower.norm.bias, again.model.vision_tower.norm.bias)
    assert isinstance(again.mim_tower, MMVisionModel) and not again.mim_tower.norm.bias.requires_grad


def test_hidden_patches_of_absent_pictures_and_of_canvas_do_not_count(trained, pixels):
    model = trained("mim")
    there = torch.tensor([[True, False], [True, False], [False, True]])
    slots = torch.stack([pixels, pixels.flip(0)], dim=1)
    hidden = torch.stack([HIDDEN, ~HIDDEN], dim=1)
    loss = model(pixel_values=slots, pixel_attention_mask=there, bool_masked_pos=hidden, return_loss=True).loss_mim
    alone = model(pixel_values=slots[there], bool_masked_pos=hidden[there], return_loss=True).loss_mim
    close(loss, alone)
    canvas = torch.tensor([[[True, True], [False, False]]]).expand(3, -1, -1)
    loss = model(pixel_values=pixels, pixel_attention_mask=canvas, bool_masked_pos=HIDDEN, return_loss=True).loss_mim
    other = torch.cat([pixels[:, :, :8], pixels[:, :, 8:] + 1], dim=2)
    again = model(pixel_values=other, pixel_attention_mask=canvas, bool_masked_pos=HIDDEN, return_loss=True).loss_mim
    close(loss, again)


def test_a_batch_without_pictures_hides_nothing(trained, pixels):
    model = trained("lm", "mim").train()
    given = {"pixel_values": pixels[:1, None], "pixel_attention_mask": torch.zeros(1, 1, dtype=torch.bool)}
    output = model(input_ids=IDS, **given, bool_masked_pos=HIDDEN[:1], context_index=torch.zeros(3, dtype=torch.long))
    assert output.loss_mim.item() == 0
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
