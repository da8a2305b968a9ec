"""timm's models as towers, beside timm itself. Transformers wants torchvision for them: run by `make test-newest`."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TimmWrapperConfig

from mm import MMConfig, MMModel
from mm.configuration.towers import tower_width
from mm.modeling_mm.core.input_checks import MediaItems
from mm.modeling_mm.towers.any_tower import build_tower, run_tower

pytestmark = [pytest.mark.newest]
# Maps with their channels first, maps with their channels last, and tokens; the arguments make them small.
KINDS = {
    "resnet18": ({}, 64, 512),
    "efficientnet_b0": ({}, 64, 1280),
    "convnext_atto": ({}, 64, 320),
    "swin_tiny_patch4_window7_224": ({"depths": [1, 1, 1, 1]}, 224, 768),
    "vit_tiny_patch16_224": ({"depth": 2, "img_size": 64}, 64, 192),
}


@pytest.fixture(params=KINDS)
def kind(request) -> SimpleNamespace:
    torch.manual_seed(0)
    arguments, side, width = KINDS[request.param]
    config = TimmWrapperConfig(architecture=request.param, do_pooling=False, model_args=arguments)
    return SimpleNamespace(config=config, tower=build_tower(config).eval(), side=side, width=width)


@torch.no_grad()
def test_the_tokens_are_those_of_timm_and_a_row_is_the_same_alone(kind):
    pixels = torch.randn(2, 3, kind.side, kind.side)
    found = run_tower(kind.tower, MediaItems(pixels[:, None])).values[:, 0]
    features = kind.tower.timm_model.forward_features(pixels)
    if features.ndim == 4:  # (n, C, h, w), or (n, h, w, C)
        is_last = features.shape[-1] == kind.width
        features = features.flatten(1, 2) if is_last else features.flatten(2).mT
    torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-5)
    for row in range(2):
        alone = run_tower(kind.tower, MediaItems(pixels[row : row + 1, None])).values[:, 0]
        torch.testing.assert_close(alone, found[row : row + 1], rtol=1e-4, atol=1e-5)


def test_the_width_is_known_before_the_tower_is_built(kind, tmp_path):
    assert tower_width(kind.config) == kind.width
    text = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    config = MMConfig(vision_config=kind.config.to_dict(), text_config=text)
    model = MMModel(config).eval()
    inputs = {"pixel_values": torch.randn(1, 1, 3, kind.side, kind.side), "input_ids": torch.tensor([[3, 4]])}
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
        assert states.shape == (1, 2, 32) and states.isfinite().all()
        model.save_pretrained(tmp_path)
        again = MMModel.from_pretrained(tmp_path)
        torch.testing.assert_close(again(**inputs).last_hidden_state, states)
