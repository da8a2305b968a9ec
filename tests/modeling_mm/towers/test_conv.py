"""MMConvModel: equal to published networks, frozen where it says so, and exact in what it refuses."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import ResNetConfig, ResNetModel

from comparing import close, same_weights
from mm.configuration.conv import MMConvConfig
from mm.modeling_mm.towers.conv import MMConvModel, MMInvertedBlock
from mm.modeling_mm.towers.conv_units import MMConv2d, MMConvPool, MMFrozenBatchNorm

STAGES = {
    "plain": [{"block": "plain", "depth": 2, "channels": 8, "pool": 2}, {"block": "plain", "channels": 12}],
    "residual": [{"block": "residual", "depth": 2, "channels": 8}, {"block": "residual", "channels": 12, "stride": 2}],
    "bottleneck": [{"block": "bottleneck", "depth": 2, "channels": 16, "stride": 2}],
    "inverted": [
        {"block": "inverted", "channels": 6, "expansion": 1},
        {"block": "inverted", "depth": 2, "channels": 8, "stride": 2, "kernel_size": 5},
    ],
}


def tower(block="inverted", **settings) -> Any:  # Any: to a type checker each submodule is a Tensor or a Module
    """A small random MMConvModel at 32 pixels whose normalisations are not the identity."""
    torch.manual_seed(0)
    defaults = {"image_size": 32, "stem": {"channels": 6, "stride": 2}, "hidden_act": "relu6"}
    model = MMConvModel(MMConvConfig(**{**defaults, "stages": STAGES[block], **settings}))
    shuffle_norms(model)
    return model.eval()


def shuffle_norms(model: nn.Module) -> None:
    norms: Any = [module for module in model.modules() if isinstance(module, (MMFrozenBatchNorm, nn.BatchNorm2d))]
    for norm in norms:
        norm.weight.data.uniform_(0.3, 0.9)
        norm.bias.data.normal_(std=0.3)
        norm.running_mean.normal_(std=0.3)
        norm.running_var.uniform_(0.7, 2.0)


def pictures(count=3, height=32, width=None, channels=3) -> torch.Tensor:
    return torch.randn(count, channels, height, width or height, generator=torch.Generator().manual_seed(1))


def assert_close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert ((found - expected).abs() / expected.abs().clamp(min=1)).max().item() <= tolerance


# ResNet's names for MMConvModel's, by kind of layer.
RESNET_UNITS = {"basic": ("conv1", "conv2"), "bottleneck": ("reduce", "conv", "widen")}


def resnet_name(name: str, layer_type: str) -> str:
    parts = name.split(".")
    leaf = ["conv" if parts[-2] == "convolution" else "norm", parts[-1]]
    if parts[0] == "embedder":
        return ".".join(["stem", *leaf])
    unit = "shortcut" if parts[5] == "shortcut" else RESNET_UNITS[layer_type][int(parts[6])]
    return ".".join(["stages", parts[2], parts[4], unit, *leaf])


@pytest.mark.parametrize(
    ("frozen", "dtype", "tolerance"), [(False, torch.float32, 1e-5), (True, torch.float64, 1e-12)]
)
@pytest.mark.parametrize(("layer_type", "block"), [("basic", "residual"), ("bottleneck", "bottleneck")])
def test_a_resnet_gives_what_transformers_resnet_gives(layer_type, block, frozen, dtype, tolerance):
    torch.manual_seed(0)
    peer = ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 32], depths=[2, 1, 2], layer_type=layer_type)
    ).eval()
    shuffle_norms(peer)
    stages = [
        {"block": block, "depth": depth, "channels": channels, "stride": stride}
        for depth, channels, stride in ((2, 16, 1), (1, 24, 2), (2, 32, 2))
    ]
    stem = {"channels": 8, "kernel_size": 7, "stride": 2, "pool": 3}
    config = MMConvConfig(
        image_size=64, stem=stem, stages=stages, frozen_batch_norm=frozen, position_embedding_type="none"
    )
    ours = MMConvModel(config).eval()
    ours.load_state_dict({resnet_name(name, layer_type): tensor for name, tensor in peer.state_dict().items()})
    peer, ours = peer.to(dtype), ours.to(dtype)
    for size in (64, 77):
        x = pictures(height=size).to(dtype)
        expected, found = peer(x), ours(x, interpolate_pos_encoding=True)
        assert_close(found.last_hidden_state, expected.last_hidden_state.flatten(2).transpose(1, 2), tolerance)
        assert_close(found.pooler_output, expected.pooler_output.flatten(1), tolerance)


def test_a_vgg_halves_the_picture_at_each_stage():
    stages = [{"block": "plain", "depth": depth, "channels": 4 * depth, "pool": 2} for depth in (1, 2, 2)]
    config = MMConvConfig(image_size=40, stages=stages, batch_norm=False)
    model: Any = MMConvModel(config).eval()
    assert model(pictures(height=40)).last_hidden_state.shape == (3, 25, 8)
    assert model(pictures(height=47), interpolate_pos_encoding=True).last_hidden_state.shape == (3, 25, 8)
    assert model.stages[0][0].conv.conv.bias is not None and not list(model.buffers())


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("size", [32, 33, 45, 50])
def test_the_config_knows_the_size_of_the_feature_map(padding, size):
    stages = [{"block": "plain", "channels": 4, "stride": 3, "pool": 2}, {"block": "plain", "channels": 4, "pool": 3}]
    config = MMConvConfig(image_size=size, stem={"channels": 4, "pool": 2}, stages=stages, padding=padding)
    assert MMConvModel(config).feature_map(pictures(height=size)).shape[-1] == config.grid_size


def tensorflow_padded(x: torch.Tensor, kernel_size: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """Zeros as TensorFlow's "SAME" puts them."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((math.ceil(size / stride) - 1) * stride + kernel_size - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_same_padding_is_tensorflows(kernel_size, stride):
    conv = MMConv2d(MMConvConfig(padding="same", batch_norm=False), 3, 4, kernel_size, stride, groups=1)
    for height, width in ((16, 16), (17, 16), (16, 19), (15, 21)):
        x = pictures(2, height, width)
        expected = F.conv2d(tensorflow_padded(x, kernel_size, stride), conv.weight, conv.bias, stride)
        assert_close(conv(x), expected)


@pytest.mark.parametrize("window", [2, 3, 4, 5])
def test_same_pooling_is_tensorflows(window):
    pool = MMConvPool(MMConvConfig(padding="same"), window)
    for height, width in ((16, 16), (17, 16), (15, 21)):
        x = pictures(2, height, width)
        assert torch.equal(pool(x), F.max_pool2d(tensorflow_padded(x, window, 2, -math.inf), window, 2))


def test_an_inverted_block_expands_convolves_each_channel_and_projects():
    config = MMConvConfig(stages=STAGES["inverted"], hidden_act="relu6", batch_norm=False)
    block: Any = MMInvertedBlock(config, 6, 6, stride=1, kernel_size=3, expansion=4)
    x = pictures(channels=6)
    wide = F.relu6(F.conv2d(x, block.expand.conv.weight, block.expand.conv.bias))
    wide = F.relu6(F.conv2d(wide, block.depthwise.conv.weight, block.depthwise.conv.bias, padding=1, groups=24))
    narrow = F.conv2d(wide, block.project.conv.weight, block.project.conv.bias)
    assert_close(block(x), x + narrow)
    block.adds_input = False
    assert_close(block(x), narrow)


def test_an_inverted_block_adds_its_input_only_where_shapes_agree():
    config = MMConvConfig(stages=STAGES["inverted"])
    adds = [MMInvertedBlock(config, 6, out, stride, 3, 1).adds_input for out, stride in ((6, 1), (8, 1), (6, 2))]
    assert adds == [True, False, False]


@pytest.mark.parametrize("block", STAGES)
def test_tokens_are_the_feature_map_row_by_row_plus_positions(block):
    model = tower(block, head_channels=10)
    x = pictures()
    found, features = model(x), model.feature_map(x)
    row, column = model.embed_positions.row, model.embed_positions.column
    width = features.shape[-1]
    for y, z in ((0, 1), (1, 0), (2, 3)):
        expected = features[:, :, y, z] + row[y] + column[z]
        assert_close(found.last_hidden_state[:, y * width + z], expected)
    assert_close(found.pooler_output, found.last_hidden_state.mean(1))
    assert torch.equal(model.tokens(features).last_hidden_state, found.last_hidden_state)


def test_positions_and_pooling_can_be_left_out():
    model = tower(position_embedding_type="none", pooler="none")
    output = model(pictures())
    assert output.pooler_output is None
    assert not [name for name in model.state_dict() if "embed_positions" in name]
    assert torch.equal(output.last_hidden_state, model.feature_map(pictures()).flatten(2).transpose(1, 2))


def test_interpolated_positions_are_a_bilinear_resize_of_the_grid():
    positions = tower().embed_positions
    rows, columns = positions.row.shape[0], positions.column.shape[0]
    grid = positions(rows, columns).view(1, rows, columns, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(5, 13), mode="bilinear").flatten(2).transpose(1, 2)[0]
    assert_close(positions(5, 13), expected)


@pytest.mark.parametrize("block", STAGES)
def test_a_batch_gives_what_its_pictures_give_alone(block):
    model = tower(block)
    together = model(pictures(5)).last_hidden_state
    alone = torch.cat([model(picture[None]).last_hidden_state for picture in pictures(5)])
    assert_close(together, alone)


@pytest.mark.parametrize("block", STAGES)
def test_a_frozen_norm_gives_what_batch_norm_gives_in_evaluation(block):
    frozen, ordinary = tower(block), tower(block, frozen_batch_norm=False)
    ordinary.load_state_dict(frozen.state_dict())
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x = pictures().to(dtype)
        assert_close(frozen.to(dtype)(x).last_hidden_state, ordinary.to(dtype)(x).last_hidden_state, tolerance)


def test_a_frozen_norm_stays_as_it_is_in_training():
    model = tower().train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(pictures()).last_hidden_state.square().mean().backward()
    optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if ".norm." in name)
    assert all(not torch.equal(after[name], before[name]) for name in before if ".norm." not in name)


def test_an_ordinary_norm_learns_and_counts_in_training():
    model = tower(frozen_batch_norm=False).train()
    before = model.stem.norm.running_mean.clone()
    model(pictures()).last_hidden_state.square().mean().backward()
    assert not torch.equal(model.stem.norm.running_mean, before)
    assert model.stem.norm.weight.grad is not None


def test_a_wrapped_convolution_still_passes_the_frozen_norm():
    class Adapter(nn.Module):
        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer

        def forward(self, x):
            return self.base_layer(x)

    model = tower()
    expected = model(pictures()).last_hidden_state
    model.stem.conv = Adapter(model.stem.conv)
    assert_close(model(pictures()).last_hidden_state, expected)


@pytest.mark.parametrize("block", STAGES)
@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_reach_every_parameter(block, frozen):
    model = tower(block, frozen_batch_norm=frozen, head_channels=10).train()
    model(pictures()).pooler_output.square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("block", STAGES)
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(block, reentrant):
    def gradients(model):
        model.zero_grad()
        model(pictures()).pooler_output.square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    model = tower(block).train()
    expected = gradients(model)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    for found, wanted in zip(gradients(model), expected, strict=True):
        assert_close(found, wanted, 1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_saving_and_loading_changes_no_bit(tmp_path, frozen):
    model = tower(frozen_batch_norm=frozen, head_channels=10)
    model.save_pretrained(tmp_path)
    loaded: Any = MMConvModel.from_pretrained(tmp_path)
    same_weights(loaded, model)
    close(loaded(pictures()).last_hidden_state, model(pictures()).last_hidden_state)
    assert len(list(loaded.parameters())) == len(list(model.parameters()))


def test_a_frozen_checkpoint_loads_with_ordinary_norms(tmp_path):
    model = tower()
    model.save_pretrained(tmp_path)
    loaded: Any = MMConvModel.from_pretrained(tmp_path, frozen_batch_norm=False)
    assert isinstance(loaded.stem.norm, nn.BatchNorm2d)
    assert_close(loaded(pictures()).last_hidden_state, model(pictures()).last_hidden_state)


def test_a_half_precision_tower_takes_float_pictures():
    model = tower()
    expected = model(pictures()).last_hidden_state
    found = model.to(torch.bfloat16)(pictures()).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.02 * expected.norm()


def test_initial_weights_keep_the_size_of_the_signal():
    torch.manual_seed(0)
    stages = [{"block": "inverted", "channels": channels} for channels in (40, 32, 40, 32, 40, 32)]  # nothing is added
    stem = {"channels": 32, "stride": 2}
    model = MMConvModel(MMConvConfig(image_size=64, stem=stem, stages=stages, position_embedding_type="none"))
    assert 0.1 < model(pictures(height=64)).last_hidden_state.std().item() < 10


@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (
            torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
            "must be float (n, 3, height, width), n at least 1; got torch.uint8",
        ),
        ([[0.0]], "pixel_values must be a tensor; got list"),
        (torch.zeros(3, 32, 32), "got torch.float32 (3, 32, 32)"),
        (torch.zeros(1, 4, 32, 32), "got torch.float32 (1, 4, 32, 32)"),
        (torch.zeros(1, 3, 32, 64), "32x64, but image_size=32"),
    ],
)
def test_a_wrong_picture_is_refused_in_words(pixel_values, message):
    with pytest.raises((ValueError, TypeError)) as raised:
        tower()(pixel_values)
    assert message in str(raised.value)


def test_a_picture_smaller_than_the_stride_is_refused():
    with pytest.raises(ValueError, match="each side must be at least 4"):
        tower()(pictures(height=3), interpolate_pos_encoding=True)


def test_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="pixels"):
        tower()(pictures(), pixels=1)
