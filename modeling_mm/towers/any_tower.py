"""Any tower over the items that are present: MM's own, or any vision or audio model of Transformers, called in one
way, and built from its config with what nothing reads frozen.

B contexts, N items per context (pictures, videos, clips), F frames; n of the items (or frames) are present; S tokens
of an item, Dv the tower's width.
"""

# Pyright cannot know the methods and outputs of another library's tower.

import copy
import inspect
import json
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig

from ...configuration.conv import MMConvConfig
from ...configuration.tower_kinds import ANY_SIZE, LENGTH_KINDS, heard_shape
from ...configuration.towers import map_tokens, picture_example, tower_model, tower_width
from ...configuration.vision import MMVisionConfig
from ..core.base import MMPreTrainedModel
from ..core.input_checks import MediaItems, other_size
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
from .vit import MMVisionModel

# By these names towers call what only makes a pooled vector.
_POOLING = ("pooler", "head")
# Asked of every tower, whether its forward names them or not.
STATES = ("output_hidden_states", "output_attentions")


def run_tower(tower: Any, items: MediaItems, layer: int = -1, strategy: str = "full", **settings: Any) -> MediaItems:
    """Runs a tower on the items that are present: tokens (B, N[, F], S, Dv) and pooled (B, N[, F], Dv), zeros
    elsewhere.

    Args:
        items: values are the tower's main input, cast to its dtype here; a mask inside each item is bool
            (..., rows, columns) of patches, for MM's own ViT, or (..., frames) of audio, for towers that can compute
            the number of tokens from the number of frames. Ready tower output passes; without a pooled vector
            the mean of its tokens is one.
        layer: which of the tower's hidden states is read; -1: its last_hidden_state.
        strategy: "default" drops the first token.
        settings: passed on where the tower's forward has them (`interpolate_pos_encoding`, ...), and those of STATES.
    Returns: a feature map (n, C, h, w) comes as h * w tokens, row by row. pooled is the tower's own vector, or the
        mean of the real tokens of a foreign tower without one.
    Raises: ValueError for a mask that the tower cannot use, or another size than the tower's.
    """
    if items.is_ready:
        return _ready(items, tower.dtype)
    slots = items.values.shape[: 3 if items.kind == "video" else 2]
    flat = flatten_present(items)
    if flat.hidden_patches is not None:
        settings["bool_masked_pos"] = flat.hidden_patches.bool()
    if flat.grids is not None:
        settings["image_grids"] = flat.grids
    inputs, mask = _inputs(tower, flat, layer, settings)
    is_own = isinstance(tower, MMPreTrainedModel)
    with nullcontext() if is_own or flat.values.device.type != "cpu" else products_of_others():
        if is_own or not takes_any_length(tower):
            output = tower(**{tower.main_input_name: flat.values.to(tower.dtype)}, **inputs)
            seen = _read(tower, flat._replace(mask=mask), output, layer, strategy)
        else:
            seen = _run_on_sounds(tower, flat, inputs, layer, strategy)
    tokens, mask, pooled = seen.values, seen.mask, seen.pooled
    if items.present is not None:
        there = items.present.flatten()
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
        tokens, mask = scatter_present(tokens, there), scatter_present(mask, there)
        pooled = None if pooled is None else scatter_present(pooled, there)
    return items._replace(
        values=tokens.unflatten(0, slots),
        mask=None if mask is None else mask.unflatten(0, slots),
        pooled=None if pooled is None else pooled.unflatten(0, slots),
        output=seen.output,
    )


def flatten_present(items: MediaItems) -> MediaItems:
    """What a tower runs on: (B, N[, F], ...) -> (n, ...), the items that are present, with their masks.

    In an exported graph, which needs one shape, all of them. A batch without any runs one blank item, which lands
    nowhere: so every rank of a distributed run uses the same parameters, with zero gradients.
    """
    values, mask, hidden = items.values, items.mask, items.hidden_patches
    grids = None if items.grids is None else items.grids.flatten(0, 1)
    values = values.flatten(0, 2 if items.kind == "video" else 1)
    mask = None if mask is None else mask.flatten(0, 1)
    hidden = None if hidden is None else hidden.flatten(0, 1)
    if items.present is not None:
        present = items.present.flatten()
        values = select_present(values, present)
        mask = None if mask is None else select_present_masks(mask, present)
        hidden = None if hidden is None else select_present(hidden, present)
        grids = None if grids is None else select_present(grids, present)
    return items._replace(values=values, mask=mask, hidden_patches=hidden, present=None, grids=grids)


def select_present(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(M, ...) -> (n, ...), those that are present; one blank item if all are absent."""
    if torch.compiler.is_exporting():
        return values
    found = values[present]
    if len(found):
        return found
    return values[:1].nan_to_num(0, 0, 0) * 0 if values.is_floating_point() else torch.zeros_like(values[:1])


def select_present_masks(mask: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """As `select_present`; every part of the blank item is real."""
    if torch.compiler.is_exporting():
        return mask | ~present.reshape(-1, *[1] * (mask.ndim - 1))
    found = mask[present]
    return found if len(found) else torch.ones_like(mask[:1])


def scatter_present(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(n, ...) of the items present -> (M, ...), zeros for absent ones; a blank item is dropped."""
    if torch.compiler.is_exporting():
        return values.masked_fill(~present.reshape(-1, *[1] * (values.ndim - 1)), 0)
    places = values.new_zeros(len(present), *values.shape[1:])
    places[present] = values
    return places


def _ready(items: MediaItems, dtype: torch.dtype) -> MediaItems:
    """Ready tower output as if the tower had just given it; without a pooled vector the mean of its tokens is one."""
    tokens, mask = items.values.to(dtype), items.mask
    if mask is None and items.present is not None:
        mask = items.present[..., None].expand(tokens.shape[:3])
    pooled = masked_mean(tokens, mask, dim=2) if items.pooled is None else items.pooled.to(dtype)
    return items._replace(values=tokens, mask=mask, pooled=pooled)


# ---- one run: what goes in, what comes out -------------------------------------------------------------------------


def _inputs(tower: Any, flat: MediaItems, layer: int, settings: dict) -> tuple[dict[str, Any], torch.Tensor | None]:
    """What the tower's forward needs in addition to the values, and the mask of the tokens (n, S) that come out."""
    accepted = inspect.signature(tower.forward).parameters
    inputs: dict[str, Any] = {name: value for name, value in settings.items() if name in accepted or name in STATES}
    inputs["return_dict"] = True
    if layer != -1:
        inputs["output_hidden_states"] = True
    if not isinstance(tower, MMPreTrainedModel):
        return inputs, _foreign_mask(tower, flat, inputs, bool(settings.get("interpolate_pos_encoding")))
    if flat.mask is None:
        return inputs, None
    if not isinstance(tower, MMVisionModel):
        raise _no_mask(tower, flat.mask)
    inputs["pixel_attention_mask"] = flat.mask
    return inputs, tower.token_mask(flat.mask)


def _read(tower: Any, flat: MediaItems, output: Any, layer: int, strategy: str) -> MediaItems:
    """Tokens, their mask and the pooled vector out of what the tower gave."""
    tokens, mask = output.last_hidden_state, flat.mask
    if layer != -1:
        states = output.hidden_states
        if not -len(states) <= layer < len(states):
            raise ValueError(f"layer={layer} is outside the tower's {len(states)} hidden states")
        tokens = states[layer]
    if tokens.ndim == 4:
        tokens = map_tokens(tower, tokens)
    pooled = output.get("pooler_output")
    if pooled is not None:
        pooled = pooled.flatten(1)  # a ResNet's is (n, C, 1, 1)
    elif not isinstance(tower, MMPreTrainedModel):
        pooled = masked_mean(tokens, mask)
    if strategy == "default":
        tokens, mask = tokens[:, 1:], None if mask is None else mask[:, 1:]
    return flat._replace(values=tokens, mask=mask, pooled=pooled, output=output)


# ---- towers of other libraries -------------------------------------------------------------------------------------


def _foreign_mask(tower: Any, flat: MediaItems, inputs: dict, interpolate: bool) -> torch.Tensor | None:
    """Checks the size; the mask of the tokens, where the tower has windows of one length."""
    _check_size(tower, flat.values, interpolate)
    if takes_any_length(tower):
        return None
    if tower.config.model_type == "vit_mae":
        inputs["noise"] = _in_order(tower, flat.values)
    if getattr(tower.config, "enable_fusion", False) and tower.config.model_type == "clap_audio_model":
        inputs["is_longer"] = is_longer(flat.values)
    return _window_mask(tower, flat.mask)


def _run_on_sounds(tower: Any, flat: MediaItems, inputs: dict, layer: int, strategy: str) -> MediaItems:
    """Sounds (n, T, ...) of any length, each as without the others."""

    def run(values: torch.Tensor, mask: torch.Tensor | None = None, **more: Any) -> MediaItems:
        more |= without_short_augmentation(tower, values)
        output = tower(**{tower.main_input_name: values.to(tower.dtype)}, **inputs, **more)
        return _read(tower, flat._replace(mask=mask), output, layer, strategy)

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
        raise _no_mask(tower, mask)
    real, whole = (tower._get_feat_extract_output_lengths(m.sum(-1)) for m in (mask.long(), torch.ones_like(mask)))
    return torch.arange(int(whole.max()), device=mask.device) < real[:, None]


def _no_mask(tower: Any, mask: torch.Tensor) -> ValueError:
    return ValueError(
        f"a mask {tuple(mask.shape)} inside each item was given, but {type(tower).__name__} cannot leave out a part "
        "of one; give one value per item"
    )


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


# ---- a tower by its config ------------------------------------------------------------------------------------------


def build_tower(config: PreTrainedConfig, layer: int = -1) -> nn.Module:
    """The tower that a config describes; of an encoder-decoder, the encoder.

    What the hidden state of `layer` does not depend on (a foreign tower's pooler or head, and layers above another
    layer than the last) is kept, so that its checkpoint loads whole, and frozen.
    """
    if type(config) is MMConvConfig:
        from .conv import MMConvModel  # three files, which no other tower needs

        if layer != -1:
            raise ValueError(
                f"layer={layer} names a hidden state, but a convolutional tower gives its last map; use -1"
            )
        return MMConvModel._from_config(config)
    if type(config) is MMVisionConfig:
        tower = MMVisionModel._from_config(config)
        if layer != -1:
            for part in (*tower.layers[layer if layer >= 0 else layer + len(tower.layers) + 1 :], tower.norm):
                part.requires_grad_(False)
        return tower
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
