"""Towers by their config: MM's own, or any vision or audio model of Transformers, called in one way.

n items (pictures, frames, clips), S tokens of an item, Dv the tower's width.
"""

# Which methods and outputs another library's tower has is what is asked here.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportOptionalSubscript=false

import inspect
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig

from ..configuration.conv import MMConvConfig
from ..configuration.towers import tower_width
from ..configuration.vision import MMVisionConfig
from .conv import MMConvModel
from .vision import MMVisionModel

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
    model = AutoModel.from_config(config)
    tower = model.get_encoder() if config.is_encoder_decoder else model
    _freeze_unread(tower, config, layer)
    return tower


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
    is_own = type(tower.config) in _OWN
    if not is_own:
        _check_size(tower, values, bool(kwargs.get("interpolate_pos_encoding")))
    token_mask = _masked(tower, values, mask, inputs)
    if layer != -1:
        inputs["output_hidden_states"] = True
    output = tower(**{tower.main_input_name: values.to(tower.dtype)}, **inputs)
    tokens = output.last_hidden_state if layer == -1 else _hidden_state(output.hidden_states, layer)
    if tokens.ndim == 4:  # (n, C, h, w)
        tokens = tokens.flatten(2).transpose(1, 2)
    pooled = output.get("pooler_output")
    if pooled is not None:
        pooled = pooled.flatten(1)  # a ResNet's is (n, C, 1, 1)
    elif not is_own:
        pooled = _mean(tokens, token_mask)
    if strategy == "default":
        tokens = tokens[:, 1:]
        token_mask = None if token_mask is None else token_mask[:, 1:]
    return TowerFeatures(tokens, token_mask, pooled, output)


def _hidden_state(states: tuple[torch.Tensor, ...], layer: int) -> torch.Tensor:
    if not -len(states) <= layer < len(states):
        raise ValueError(f"layer={layer} is outside the tower's {len(states)} hidden states")
    return states[layer]


def _mean(tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return tokens.mean(1)
    total = tokens.masked_fill(~mask[..., None], 0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)


def _masked(tower: Any, values: torch.Tensor, mask: torch.Tensor | None, inputs: dict) -> torch.Tensor | None:
    """The mask of the tower's tokens (n, S); puts what the tower's forward needs of it into `inputs`."""
    if mask is None:
        return None
    if isinstance(tower, MMVisionModel):
        inputs["pixel_attention_mask"] = mask
        return tower.token_mask(mask)
    if mask.ndim == 2 and hasattr(tower, "_get_feature_vector_attention_mask"):  # Wav2Vec2 and its kind
        inputs["attention_mask"] = mask.long()
        frames = tower._get_feat_extract_output_lengths(torch.tensor(values.shape[-1]))
        return tower._get_feature_vector_attention_mask(int(frames), mask.long()).bool()
    if mask.ndim == 2 and hasattr(tower, "_get_feat_extract_output_lengths"):  # Whisper: it hears the padding too
        real, whole = (tower._get_feat_extract_output_lengths(m.sum(-1)) for m in (mask.long(), torch.ones_like(mask)))
        return torch.arange(int(whole.max()), device=mask.device) < real[:, None]
    raise ValueError(
        f"a mask {tuple(mask.shape)} inside each item was given, but {type(tower).__name__} cannot leave out a part "
        "of one; give one value per item"
    )


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
    """Freezes what the hidden state of `layer` does not depend on: a run without numbers tells."""
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
        tokens = tower_features(probe, example, layer=layer).tokens
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


def example_of(tower: Any, config: Any) -> torch.Tensor | None:
    """One item as the tower takes it, by the sizes of its config; None for a kind of audio that is not known."""
    if tower.main_input_name == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        return torch.zeros(1, getattr(config, "num_channels", 3), height, width)
    if hasattr(config, "max_source_positions"):  # Whisper: two frames per position
        return torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
    if hasattr(config, "max_length") and hasattr(config, "num_mel_bins"):  # AST
        return torch.zeros(1, config.max_length, config.num_mel_bins)
    if hasattr(config, "conv_stride"):  # Wav2Vec2 and its kind: samples
        return torch.zeros(1, 4000)
    return None
