"""Parts of a model by name, for `freeze` and `freeze_except`."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn
from transformers.modeling_utils import PreTrainedModel

from ...configuration.base import nearest

# name -> the parameters that belong to it, behind the prefix of the base model. Cross-attention: see `_belongs`.
PARTS = {
    "vision": r"vision_tower\.",
    "audio": r"audio_tower\.",
    "text": r"language_model\.",
    "text_encoder": r"text_encoder\.",
    "projector": r"(vision|audio)_projector\.|(image|frame|clip)_slots\.|modality_embedding\.",
    "resampler": r"(vision|audio)_resampler\.",
    "cross_attention": r"(language_model|text_encoder)\.layers\.\d+\.cross_attn",
    "fusion": r"fusion\.",
    "embeddings": r"(language_model|text_encoder)\.embed_",
    "lm_head": r"lm_head",
}


def named_parts(model: PreTrainedModel, parts: tuple[str, ...]) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Every parameter: its name, itself, and whether it belongs to one of the parts (names of PARTS, or globs).

    Raises: ValueError for a part that this model does not have.
    """
    prefix = f"{model.base_model_prefix}."
    names = [name.removeprefix(prefix) for name, _ in model.named_parameters()]
    own_layers = {
        f"{stack}.layers.{number}."
        for stack in ("language_model", "text_encoder")
        for number, layer in enumerate(_layers(model, stack))
        if layer.is_cross_only
    }
    chosen = set()
    for part in parts:
        found = {name for name in names if _belongs(name, part, own_layers, prefix)}
        if not found:
            there = [known for known in PARTS if any(_belongs(name, known, own_layers, prefix) for name in names)]
            raise ValueError(
                f"{type(model).__name__} has no part {part!r}{nearest(part, PARTS)}; it has {', '.join(there)}, and "
                "globs over the names of its parameters are accepted too"
            )
        chosen |= found
    for name, parameter in model.named_parameters():
        yield name, parameter, name.removeprefix(prefix) in chosen


def _layers(model: PreTrainedModel, stack: str) -> list:
    base = getattr(model, model.base_model_prefix, model)
    found = getattr(base, stack, None)  # a tower on its own has no text stack
    return [] if found is None else list(found.layers)


def _belongs(name: str, part: str, own_layers: set[str], prefix: str) -> bool:
    if part not in PARTS:
        return fnmatchcase(name, part) or fnmatchcase(prefix + name, part)
    if part == "cross_attention" and any(name.startswith(layer) for layer in own_layers):
        return True  # a layer of [cross, mlp] is there for nothing else
    return re.match(PARTS[part], name) is not None
