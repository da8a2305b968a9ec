"""Towers of other libraries: any vision or audio model of Transformers, run as one of MM's own, and built from its
config, with what nothing reads frozen.

n pictures or clips, S tokens of each, D the tower's width.
"""

# Pyright cannot know the methods and outputs of another library's tower.

import copy
import json
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig

from ...configuration.tower_kinds import ANY_SIZE, LENGTH_KINDS, heard_shape
from ...configuration.towers import map_tokens, picture_example, tower_model, tower_width
from ..core.input_checks import MediaItems, no_mask_inside, other_size
from ..core.inputs_outputs import hidden_state
from ..core.layers import masked_mean
from ..core.linear import products_of_others
from .sound_lengths import (
    keeps_to_mask,
    real_lengths,
    run_by_length,
    shortest_sound,
    takes_any_length,
    without_short_augmentation,
)

# By these names towers call what only makes a pooled vector.
_POOLING = ("pooler", "head")


def run_foreign(
    tower: Any, flat: MediaItems, layer: int, inputs: dict[str, Any], interpolate: bool = False
) -> MediaItems:
    """Runs it on items (n, ...): their tokens (n, S, D), the mask of these, and the tower's own vectors (n, D), or the
    mean of the real tokens. inputs: of its forward, besides the items."""
    mask = _token_mask(tower, flat, inputs, interpolate)
    with nullcontext() if flat.values.device.type != "cpu" else products_of_others():
        if takes_any_length(tower):
            return _run_on_sounds(tower, flat, inputs, layer)
        output = tower(**{tower.main_input_name: flat.values.to(tower.dtype)}, **inputs)
        return _read(tower, flat._replace(mask=mask), output, layer)


def _read(tower: Any, flat: MediaItems, output: Any, layer: int) -> MediaItems:
    """Tokens and the pooled vector out of what the tower gave."""
    tokens = output.last_hidden_state if layer == -1 else hidden_state(output, layer)
    if tokens.ndim == 4:
        tokens = map_tokens(tower, tokens)
    pooled = output.get("pooler_output")
    pooled = masked_mean(tokens, flat.mask) if pooled is None else pooled.flatten(1)  # a ResNet's is (n, C, 1, 1)
    return flat._replace(values=tokens, pooled=pooled, output=output)


def _token_mask(tower: Any, flat: MediaItems, inputs: dict, interpolate: bool) -> torch.Tensor | None:
    """Checks the size; the mask of the tokens, where the tower has windows of one length."""
    _check_size(tower, flat.values, interpolate)
    if takes_any_length(tower):
        return None
    if tower.config.model_type == "vit_mae":
        inputs["noise"] = _in_order(tower, flat.values)
    if getattr(tower.config, "enable_fusion", False) and tower.config.model_type == "clap_audio_model":
        inputs["is_longer"] = is_longer(flat.values)
    return _window_mask(tower, flat.mask)


def _run_on_sounds(tower: Any, flat: MediaItems, inputs: dict, layer: int) -> MediaItems:
    """Sounds (n, T, ...) of any length, each as without the others."""

    def run(values: torch.Tensor, mask: torch.Tensor | None = None, **more: Any) -> MediaItems:
        more |= without_short_augmentation(tower, values)
        output = tower(**{tower.main_input_name: values.to(tower.dtype)}, **inputs, **more)
        return _read(tower, flat._replace(mask=mask), output, layer)

    values, mask, shortest = flat.values, flat.mask, shortest_sound(tower.config)
    if mask is None and values.shape[1] >= shortest:  # nor does a graph fix their length
        return run(values)._replace(mask=None)
    lengths = real_lengths(values, mask)
    if mask is not None and keeps_to_mask(tower.config) and min(lengths) >= shortest:
        frames = int(tower._get_feat_extract_output_lengths(torch.tensor(values.shape[1])))
        token_mask = tower._get_feature_vector_attention_mask(frames, mask.long()).bool()
        return run(values, token_mask, attention_mask=mask.long())
    seen = run_by_length(run, values, lengths, shortest)
    return seen._replace(mask=None) if mask is None else seen


def _window_mask(tower: Any, mask: torch.Tensor | None) -> torch.Tensor | None:
    """The mask of the tokens (n, S) of a tower that hears its padding too: Whisper's."""
    if mask is None:
        return None
    if mask.ndim != 2 or not hasattr(tower, "_get_feat_extract_output_lengths"):
        raise no_mask_inside(tower, mask)
    real, whole = (tower._get_feat_extract_output_lengths(m.sum(-1)) for m in (mask.long(), torch.ones_like(mask)))
    return torch.arange(int(whole.max()), device=mask.device) < real[:, None]


def _in_order(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The noise by which a ViTMAE sorts its patches (n, L), so that their order does not change."""
    patch = tower.config.patch_size
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    number = (pixels.shape[-2] // rows) * (pixels.shape[-1] // columns)
    return torch.arange(number, device=pixels.device).expand(len(pixels), -1)


def is_longer(features: torch.Tensor) -> torch.Tensor:
    """bool (n, 1), which of CLAP's (n, 4, frames, bands) hold parts of a long sound and not a short one four times."""
    return (features[:, 1:] != features[:, :1]).flatten(1).any(1, keepdim=True)


def _check_size(tower: Any, pixels: torch.Tensor, interpolate: bool) -> None:
    """Another size than the config's must be asked for, whether the tower would notice or not."""
    size = getattr(tower.config, "image_size", None)
    if size is None or pixels.ndim != 4 or interpolate or tower.config.model_type in ANY_SIZE:
        return
    if tuple(pixels.shape[-2:]) != ((size, size) if isinstance(size, int) else tuple(size)):
        raise other_size(pixels, size)


# ---- built from its config ------------------------------------------------------------------------------------------


def build_foreign(config: PreTrainedConfig, layer: int = -1) -> nn.Module:
    """The tower that a config describes; of an encoder-decoder, the encoder. What `layer` does not need is frozen."""
    if config.model_type == "vit_mae":  # hides most patches in every run, in evaluation too
        config = copy.deepcopy(config)
        config.mask_ratio = 0.0
    try:
        model = tower_model(config)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{type(config).__name__} makes no tower: {error}") from error
    tower = model.get_encoder() if config.is_encoder_decoder else model
    _freeze_unread(tower, config, layer)
    return tower


def _freeze_unread(tower: Any, config: PreTrainedConfig, layer: int) -> None:
    """Freezes what the hidden state of `layer` does not depend on.

    Raises: ValueError for a tower that cannot run, or whose tokens have another width than its config says.
    """
    settings = {**config.to_dict(), "dtype": None}  # it is None until the model is built
    unread = _unread(type(config), json.dumps(settings, sort_keys=True), layer)
    if unread is None:
        for name in _POOLING:
            if hasattr(tower, name):
                getattr(tower, name).requires_grad_(False)
        return
    for name, parameter in tower.named_parameters():
        if name in unread:
            parameter.requires_grad_(False)


@lru_cache(maxsize=64)  # a conversion builds its tower three times
def _unread(config_class: type[PreTrainedConfig], settings: str, layer: int) -> frozenset[str] | None:
    """Names of the parameters that the hidden state of `layer` does not depend on, found by a run on the meta device;
    None for a tower that cannot be tried. `settings` is the config as JSON; raises as `_freeze_unread`."""
    config = config_class.from_dict(json.loads(settings))
    with torch.device("meta"):
        probe = tower_model(config)
        probe = (probe.get_encoder() if config.is_encoder_decoder else probe).eval()
        example = example_of(probe, config)
    if example is None:
        return None
    for part in probe.modules():
        if type(part) in (nn.Linear, nn.LayerNorm, nn.BatchNorm2d):  # most of a tower
            part.forward = partial(_shape_only, part)
    with torch.enable_grad(), torch.device("cpu"):  # BEiT keeps what it makes on the way, for every BEiT to come
        tokens = _tried(probe, example, layer)
        if tokens.shape[-1] != tower_width(config):
            raise ValueError(
                f"layer={layer} of {config_class.__name__} is {tokens.shape[-1]} wide, but its last is "
                f"{tower_width(config)}; read layer=-1 (vision_feature_layer)"
            )
        read = _leaves(tokens)
    return frozenset(
        name for name, weight in probe.named_parameters() if weight.requires_grad and id(weight) not in read
    )


class _Made(torch.autograd.Function):
    """What is made of tensors, as a shape (..., width): torch's own on the meta device takes a millisecond a layer."""

    @staticmethod
    def forward(ctx, width, values, *read):
        return values.new_empty(*values.shape[:-1], width)


def _shape_only(layer: Any, values: torch.Tensor) -> torch.Tensor:
    """What a linear layer or a norm makes, on the meta device; of a wrong width, its own error."""
    width = gives = values.shape[-1]
    kind = type(layer)
    if kind is nn.Linear:
        fits, gives = layer.in_features == width, layer.out_features
    elif kind is nn.LayerNorm:
        fits = layer.normalized_shape == (width,)
    else:
        fits = values.ndim == 4 and layer.num_features == values.shape[1]
    return _Made.apply(gives, values, *layer.parameters(recurse=False)) if fits else kind.forward(layer, values)


def _leaves(tokens: torch.Tensor) -> set[int]:
    """Ids of the parameters that tokens were computed from, by the graph that autograd keeps."""
    found, seen, waiting = set(), set(), [tokens.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found |= {id(node.variable)} if hasattr(node, "variable") else set()
        waiting += [before for before, _ in node.next_functions]
    return found


def _tried(probe: Any, example: torch.Tensor, layer: int) -> torch.Tensor:
    """The tokens (1, S, D) of an item."""
    inputs = {"return_dict": True} if layer == -1 else {"return_dict": True, "output_hidden_states": True}
    try:
        return run_foreign(probe, MediaItems(example), layer, inputs).values
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        shape = tuple(example.shape[1:])
        raise ValueError(f"{type(probe).__name__} does not run on one item of {shape}: {error}") from error


def example_of(tower: Any, config: Any) -> torch.Tensor | None:
    """One item as the tower takes it, by the sizes of its config; None for a kind of audio that is not known."""
    if tower.main_input_name == "pixel_values":
        return picture_example(config, tower)
    if config.model_type == "whisper":  # two frames per position
        return torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
    if config.model_type == "clap_audio_model":  # with fusion it chooses rows by their numbers
        frames = config.spec_size * (config.spec_size // config.num_mel_bins)
        return None if config.enable_fusion else torch.zeros(1, 1, frames, config.num_mel_bins)
    if config.model_type == "audio-spectrogram-transformer":
        return torch.zeros(1, config.max_length, config.num_mel_bins)
    if heard_shape(config):
        return torch.zeros(1, 200, heard_shape(config)[-1])
    if (
        config.model_type in LENGTH_KINDS and config.model_type != "sew-d"
    ):  # samples; SEW-D does not run without numbers
        return torch.zeros(1, 4000)
    return None
