"""Towers by their config: MM's own, or any vision or audio model of Transformers, with what nothing reads frozen."""

# Pyright cannot know the methods and settings of another library's tower.

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig

from ...configuration.conv import MMConvConfig
from ...configuration.tower_kinds import LENGTH_KINDS
from ...configuration.towers import picture_example, tower_width
from ...configuration.vision import MMVisionConfig
from ..core.input_checks import MediaItems
from .any_tower import run_tower
from .conv import MMConvModel
from .vit import MMVisionModel

_OWN = {MMVisionConfig: MMVisionModel, MMConvConfig: MMConvModel}
# By these names towers call what only makes a pooled vector.
_POOLING = ("pooler", "head")


def build_tower(config: PreTrainedConfig, layer: int = -1) -> nn.Module:
    """The tower that a config describes; of an encoder-decoder, the encoder.

    What the hidden state of `layer` does not depend on (a foreign tower's pooler or head, and layers above another
    layer than the last) is kept, so that its checkpoint loads whole, and frozen.
    """
    if type(config) in _OWN:
        tower = _OWN[type(config)]._from_config(config)
        if layer != -1 and isinstance(config, MMConvConfig):
            raise ValueError(
                f"layer={layer} names a hidden state, but a convolutional tower gives its last map; use -1"
            )
        if layer != -1:
            for part in (*tower.layers[layer if layer >= 0 else layer + len(tower.layers) + 1 :], tower.norm):
                part.requires_grad_(False)
        return tower
    config = _unmasked(config)
    try:
        model = AutoModel.from_config(config)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{type(config).__name__} makes no tower: {error}") from error
    tower = model.get_encoder() if config.is_encoder_decoder else model
    _freeze_unread(tower, config, layer)
    return tower


def _unmasked(config: PreTrainedConfig) -> PreTrainedConfig:
    """A ViTMAE hides most patches in every run, in evaluation too; a tower sees all of them."""
    if config.model_type != "vit_mae":
        return config
    config = copy.deepcopy(config)
    config.mask_ratio = 0.0
    return config


def _freeze_unread(tower: Any, config: PreTrainedConfig, layer: int) -> None:
    """Freezes what the hidden state of `layer` does not depend on, found by a run on the meta device.

    Raises: ValueError for a tower that cannot run, or whose tokens have another width than its config says.
    """
    with torch.device("meta"):
        example = example_of(tower, config)
        probe = AutoModel.from_config(config)
    probe = (probe.get_encoder() if config.is_encoder_decoder else probe).eval()
    if example is None:
        for name in _POOLING:
            if hasattr(tower, name):
                getattr(tower, name).requires_grad_(False)
        return
    with torch.enable_grad(), torch.device("cpu"):  # BEiT keeps what it makes on the way, for every BEiT to come
        tokens = _tried(probe, example, layer)
        if tokens.shape[-1] != tower_width(config):
            raise ValueError(
                f"layer={layer} of {type(config).__name__} is {tokens.shape[-1]} wide, but its last is "
                f"{tower_width(config)}; read layer=-1 (vision_feature_layer)"
            )
        learned = [(name, parameter) for name, parameter in probe.named_parameters() if parameter.requires_grad]
        names, parameters = zip(*learned, strict=True)
        gradients = torch.autograd.grad(tokens.sum(), parameters, allow_unused=True)
    unread = {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}
    for name, parameter in tower.named_parameters():
        if name in unread:
            parameter.requires_grad_(False)


def _tried(probe: Any, example: torch.Tensor, layer: int) -> torch.Tensor:
    """The tokens (1, S, D) of an item."""
    try:
        return run_tower(probe, MediaItems(example[:, None]), layer=layer).values[:, 0]
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        shape = tuple(example.shape[1:])
        raise ValueError(f"{type(probe).__name__} does not run on one item of {shape}: {error}") from error


def example_of(tower: Any, config: Any) -> torch.Tensor | None:
    """One item as the tower takes it, by the sizes of its config; None for a kind of audio that is not known."""
    if tower.main_input_name == "pixel_values":
        return picture_example(config, tower)
    if config.model_type == "whisper":  # two frames per position
        return torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
    if config.model_type == "audio-spectrogram-transformer":
        return torch.zeros(1, config.max_length, config.num_mel_bins)
    for name in ("feature_projection_input_dim", "input_feat_per_channel", "num_mel_bins"):  # frames of bands
        if tower.main_input_name == "input_features" and hasattr(config, name):
            return torch.zeros(1, 200, getattr(config, name) * getattr(config, "input_channels", 1))
    if (
        config.model_type in LENGTH_KINDS and config.model_type != "sew-d"
    ):  # samples; SEW-D does not run without numbers
        return torch.zeros(1, 4000)
    return None
