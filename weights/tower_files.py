"""Files of torchvision and timm, which hold the tensors of one vision tower and no settings: what kind each is.

vgg16-397923af.pth ── kind_of ──► ("vgg", "torchvision") ── file_plan ──► settings, table
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ..configuration.conv import MMConvConfig
from ..configuration.vision import MMVisionConfig
from .checkpoint import Checkpoint
from .cnn_names import TIMM, TORCHVISION, USE_TIMM, cnn_plan, inverted_settings, resnet_settings, vgg_settings
from .config_table import TowerPlan
from .key_table import KeyTable
from .timm_names import (
    convnext_settings,
    convnext_table,
    convnext_table_back,
    has_convolutions,
    vit_settings,
    vit_table,
)

LAYOUTS = (TORCHVISION, TIMM)


class Kind(NamedTuple):
    """name: "vgg", "resnet", "inverted", "vit" or "convnext". layout: whose names the tensors have; VGG and ResNet
    have the same in both."""

    name: str
    layout: str


# A tensor that each has, and no other; in this order, as names of one begin like those of another.
_SIGNS = (
    ("patch_embed.proj.weight", "vit", TIMM),
    ("conv_proj.weight", "vit", TORCHVISION),
    ("conv_stem.weight", "inverted", TIMM),
    ("stem.0.weight", "convnext", TIMM),
    ("layer1.0.conv1.weight", "resnet", TORCHVISION),
    ("features.1.0.layer_scale", "convnext", TORCHVISION),
    ("features.1.conv.0.0.weight", "inverted", TORCHVISION),
    ("features.1.0.block.0.0.weight", "inverted", TORCHVISION),
    ("features.1.block.0.0.weight", "mobilenet_v3", TORCHVISION),
    ("features.0.weight", "vgg", TORCHVISION),
)


NAMES = {
    "vgg": "VGG", "resnet": "ResNet", "inverted": "MobileNetV2 or EfficientNet", "vit": "ViT, DeiT or SigLIP",
    "convnext": "ConvNeXt",
}  # fmt: skip
# Architectures whose features were compared, by family; with torchvision's names.
_COMPARED = {
    "vgg": r"vgg\d+(_bn)?",
    "resnet": r"(wide_)?resnet\d+(_2)?",
    "inverted": r"mobilenet_?v2(_\d+d?)?|(tf_)?efficientnet_(b\d|l2|lite\d)(_ap|_ns)?",
    "vit": r"vit_(tiny|small|base|large|huge|giant|gigantic|so400m|giantopt)_patch\d+_(siglip_)?(gap_)?\d+"
           r"(_in21k|_dino|_sam|_miil)?|deit_(tiny|small|base)(_distilled)?_patch\d+_\d+",
    "convnext": r"convnext_(atto|femto|pico|nano|tiny|small|base|large|xlarge|xxlarge)",
}  # fmt: skip


def kind_of(names: Iterable[str]) -> Kind | None:
    """None for other tensors, such as those of a model of several towers."""
    names = set(names)
    return next((Kind(kind, layout) for sign, kind, layout in _SIGNS if sign in names), None)


def is_tower_file(checkpoint: Checkpoint) -> bool:
    """Whether it is a file of torchvision or timm, or timm's folder."""
    return "model_type" not in checkpoint.config and kind_of(checkpoint) is not None


def file_name(checkpoint: Checkpoint) -> str:
    """timm's architecture, or the name of the file."""
    return str(checkpoint.config.get("architecture") or Path(checkpoint.source).name).lower()


def file_plan(checkpoint: Checkpoint, given: Mapping[str, Any] | None = None) -> TowerPlan:
    """What a file of torchvision or timm becomes. Raises ValueError for parts that MM lacks.

    Args:
        given: settings of the tower that its tensors do not hold, such as num_attention_heads or image_size.
    """
    kind, given = kind_of(checkpoint), dict(given or {})
    if kind is None:
        raise ValueError(f"{checkpoint.source} is no tower of {' or '.join(LAYOUTS)} that is known")
    if kind.name == "mobilenet_v3":
        raise ValueError(f"a MobileNetV3 is not known; {USE_TIMM}")
    shapes = {name: checkpoint.shape(name) for name in checkpoint}
    known = _told(checkpoint) | given
    if kind.name == "vit":
        settings = {**vit_settings(shapes, kind.layout, given, file_name(checkpoint)), **given}
        _check_architecture(checkpoint, kind.name)
        return TowerPlan(settings, vit_table(MMVisionConfig(**settings), kind.layout, shapes))
    if kind.name == "convnext":
        is_told = "hidden_act" in known
        settings = {**convnext_settings(shapes, kind.layout, file_name(checkpoint), is_told), **known}
        _check_architecture(checkpoint, kind.name)
        return TowerPlan(settings, convnext_table(kind.layout, has_convolutions(shapes)))
    if kind.name == "inverted":
        settings = inverted_settings(shapes, kind.layout, file_name(checkpoint))
    elif kind.name == "resnet":
        settings = resnet_settings(shapes, file_name(checkpoint))
    else:
        settings = vgg_settings(shapes)
    _check_architecture(checkpoint, kind.name)
    settings = {**settings, "image_size": 224, **known}
    fields = {name: value for name, value in settings.items() if name != "model_type"}
    return cnn_plan(kind.name, kind.layout, settings, MMConvConfig(**fields))


# Whose tensors do not say which of several networks they are of.
_UNTOLD = {
    "resnet": "resnetaa50 has the tensors of resnet50",
    "inverted": "tf_efficientnet_b0 has the tensors of efficientnet_b0",
    "vit": "vit_base_patch16_gap_224 has 16 heads, vit_base_patch16_siglip_gap_224 has 12",  # without a class token
}


def _check_architecture(checkpoint: Checkpoint, kind: str) -> None:
    """Raises ValueError where timm's folder names a network that was not compared: its tensors may have the names and
    shapes of one that was, and its activations, poolings or epsilons be others. So for a file that does not say its
    network, where it is known that others have the same tensors."""
    name, known = checkpoint.config.get("architecture"), _COMPARED[kind]
    if name is not None and not re.fullmatch(known, str(name).partition(".")[0]):
        raise ValueError(f"timm's {name} is not known; of its kind, those are whose names match {known}; {USE_TIMM}")
    file = file_name(checkpoint)
    is_told = kind == "vit" and not {"cls_token", "class_token"}.isdisjoint(checkpoint)
    if kind in _UNTOLD and not is_told and not re.match(rf"({known})(?![a-z\d])", file):
        raise ValueError(
            f"{file} does not begin with a name of a network, and its tensors do not tell ({_UNTOLD[kind]}). "
            f"Known are names that match {known}: rename the file if it is one of these; for another, {USE_TIMM}"
        )


def _told(checkpoint: Checkpoint) -> dict[str, Any]:
    """The size of pictures by timm's config.json. Raises ValueError for one of two sides."""
    size = (checkpoint.config.get("pretrained_cfg") or {}).get("input_size")
    if size and size[-1] != size[-2]:
        raise ValueError(
            f"input_size is {size} in timm's config.json; pictures of two sides are not known; {USE_TIMM}"
        )
    return {"image_size": size[-1]} if size else {}


def table_back(config: Any, layout: str) -> KeyTable:
    """The table by which a tower of this config is written as a file of torchvision or timm.

    Raises: ValueError for a tower that the layout does not have.
    """
    if isinstance(config, CONFIG_MAPPING["convnext"]):
        return convnext_table_back(config, layout)
    if isinstance(config, MMVisionConfig):
        if layout == TORCHVISION and (config.pooler == "attention" or config.num_register_tokens):
            raise ValueError("torchvision has no such ViT; use --to timm")
        return vit_table(config, layout)
    if not isinstance(config, MMConvConfig):
        raise ValueError(f"a {type(config).__name__} is no tower of {' or '.join(LAYOUTS)} that is known")
    blocks = {stage["block"] for stage in config.stages or []}
    kind = "vgg" if blocks == {"plain"} else "inverted" if blocks == {"inverted"} else "resnet"
    if not blocks <= {"plain"} and blocks != {"inverted"} and not blocks <= {"residual", "bottleneck"}:
        raise ValueError(f"stages of {', '.join(sorted(blocks))} blocks are no network of {layout}")
    return cnn_plan(kind, layout, {}, config).table
