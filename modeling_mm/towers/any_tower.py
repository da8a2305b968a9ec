"""Towers by their config: MM's own, or any vision or audio model of Transformers, called in one way.

n items (pictures, frames, clips), S tokens of an item, Dv the tower's width.
"""

# Which methods and outputs another library's tower has is what is asked here.

import copy
import inspect
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig

from ...configuration.conv import MMConvConfig
from ...configuration.tower_kinds import LENGTH_KINDS
from ...configuration.towers import map_tokens, picture_example, tower_width
from ...configuration.vision import MMVisionConfig
from ..core.pooling import masked_mean
from .conv import MMConvModel
from .sound_lengths import (
    keeps_to_mask,
    real_lengths,
    run_by_length,
    shortest_sound,
    takes_any_length,
    without_short_augmentation,
)
from .vit import MMVisionModel

_OWN = {MMVisionConfig: MMVisionModel, MMConvConfig: MMConvModel}
# Asked of every tower, whether its forward names them or not.
STATES = ("output_hidden_states", "output_attentions")
# By these names towers call what makes a pooled vector alone.
_POOLING = ("pooler", "head")


class TowerFeatures(NamedTuple):
    """What a tower gives: see `tower_features`."""

    tokens: torch.Tensor  # (n, S, Dv)
    mask: torch.Tensor | None  # bool (n, S), the real tokens; None: all
    pooled: torch.Tensor | None  # (n, Dv)
    output: Any  # the tower's own


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


def tower_features(
    tower: Any,
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    layer: int = -1,
    strategy: str = "full",
    **kwargs: Any,
) -> TowerFeatures:
    """Runs a tower on items that are all there.

    Args:
        values: the tower's main input, (n, ...); cast to its dtype.
        mask: what of an item is real, where items differ: bool (n, rows, columns) of patches, for MM's own ViT, or
            (n, frames) of audio, for towers that can tell how many tokens so many frames make. None: all.
        layer: which of the tower's hidden states is read; -1: its last_hidden_state.
        strategy: "default" drops the first token.
        kwargs: passed on where the tower's forward has them (`interpolate_pos_encoding`, `bool_masked_pos`, ...), and
            those of STATES.
    Returns: a feature map (n, C, h, w) comes as h * w tokens, row by row. pooled is the tower's own vector, or the
        mean of the real tokens of a foreign tower without one.
    Raises: ValueError for a mask that the tower cannot use, or another size than the tower's.
    """
    accepted = inspect.signature(tower.forward).parameters
    inputs = {name: value for name, value in kwargs.items() if name in accepted or name in STATES}
    inputs["return_dict"] = True
    if layer != -1:
        inputs["output_hidden_states"] = True
    if type(tower.config) in _OWN:
        return _features(tower, values, _patch_mask(tower, mask, inputs), inputs, layer, strategy)
    _check_size(tower, values, bool(kwargs.get("interpolate_pos_encoding")))
    if takes_any_length(tower):
        return _heard(tower, values, mask, inputs, layer, strategy)
    if tower.config.model_type == "vit_mae":
        inputs["noise"] = _in_order(tower, values)
    return _features(tower, values, _window_mask(tower, mask), inputs, layer, strategy)


def _features(tower: Any, values: torch.Tensor, token_mask, inputs: dict, layer: int, strategy: str) -> TowerFeatures:
    """One run of a tower, with what its forward needs beside the values."""
    output = tower(**{tower.main_input_name: values.to(tower.dtype)}, **inputs)
    tokens = output.last_hidden_state if layer == -1 else _hidden_state(output.hidden_states, layer)
    if tokens.ndim == 4:
        tokens = map_tokens(tower, tokens)
    pooled = output.get("pooler_output")
    if pooled is not None:
        pooled = pooled.flatten(1)  # a ResNet's is (n, C, 1, 1)
    elif type(tower.config) not in _OWN:
        pooled = masked_mean(tokens, token_mask)
    if strategy == "default":
        tokens = tokens[:, 1:]
        token_mask = None if token_mask is None else token_mask[:, 1:]
    return TowerFeatures(tokens, token_mask, pooled, output)


def _heard(tower: Any, values: torch.Tensor, mask, inputs: dict, layer: int, strategy: str) -> TowerFeatures:
    """Sounds (n, T, ...) of any length, each as it is alone."""
    lengths, shortest = real_lengths(values, mask), shortest_sound(tower.config)
    if mask is not None and keeps_to_mask(tower.config) and min(lengths) >= shortest:
        frames = int(tower._get_feat_extract_output_lengths(torch.tensor(values.shape[1])))
        token_mask = tower._get_feature_vector_attention_mask(frames, mask.long()).bool()
        inputs = {**inputs, "attention_mask": mask.long()} | without_short_augmentation(tower, values)
        return _features(tower, values, token_mask, inputs, layer, strategy)

    def run(chosen: torch.Tensor) -> TowerFeatures:
        more = without_short_augmentation(tower, chosen)
        return _features(tower, chosen, None, inputs | more, layer, strategy)

    features = run_by_length(run, values, lengths, shortest)
    return features._replace(mask=None) if mask is None else features


def _hidden_state(states: tuple[torch.Tensor, ...], layer: int) -> torch.Tensor:
    if not -len(states) <= layer < len(states):
        raise ValueError(f"layer={layer} is outside the tower's {len(states)} hidden states")
    return states[layer]


def _patch_mask(tower: Any, mask: torch.Tensor | None, inputs: dict) -> torch.Tensor | None:
    """The mask of the tokens (n, S) of one of MM's own towers; the mask of patches goes into `inputs`."""
    if mask is None:
        return None
    if not isinstance(tower, MMVisionModel):
        raise _no_mask(tower, mask)
    inputs["pixel_attention_mask"] = mask
    return tower.token_mask(mask)


def _window_mask(tower: Any, mask: torch.Tensor | None) -> torch.Tensor | None:
    """The mask of the tokens (n, S) of a tower that hears its padding too: Whisper's."""
    if mask is None:
        return None
    if mask.ndim != 2 or not hasattr(tower, "_get_feat_extract_output_lengths"):
        raise _no_mask(tower, mask)
    real, whole = (tower._get_feat_extract_output_lengths(m.sum(-1)) for m in (mask.long(), torch.ones_like(mask)))
    return torch.arange(int(whole.max()), device=mask.device) < real[:, None]


def _no_mask(tower: Any, mask: torch.Tensor) -> ValueError:
    return ValueError(
        f"a mask {tuple(mask.shape)} inside each item was given, but {type(tower).__name__} cannot leave out a part "
        "of one; give one value per item"
    )


def _in_order(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The noise by which a ViTMAE sorts its patches (n, L), so that they stay as they are."""
    patch = tower.config.patch_size
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    number = (pixels.shape[-2] // rows) * (pixels.shape[-1] // columns)
    return torch.arange(number, device=pixels.device).expand(len(pixels), -1)


def _check_size(tower: Any, pixels: torch.Tensor, interpolate: bool) -> None:
    """Another size than the config's must be asked for, whether the tower would notice or not."""
    size = getattr(tower.config, "image_size", None)
    if size is None or pixels.ndim != 4 or interpolate:
        return
    wanted = (size, size) if isinstance(size, int) else tuple(size)
    given = tuple(pixels.shape[-2:])
    if given != wanted:
        raise ValueError(
            f"pixel_values are {given[0]}x{given[1]}, but image_size={size}; resize them, or pass "
            "interpolate_pos_encoding=True"
        )


def _freeze_unread(tower: Any, config: PreTrainedConfig, layer: int) -> None:
    """Freezes what the hidden state of `layer` does not depend on: a run without numbers tells.

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
        return tower_features(probe, example, layer=layer).tokens
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
