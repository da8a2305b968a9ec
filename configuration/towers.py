"""Towers inside MMConfig: MM's own configs, or those of Transformers, found by `model_type`."""

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .base import MMBaseConfig, nearest, warn_of_unknown
from .conv import MMConvConfig
from .tower_kinds import MEASURED_WIDTH, NO_TOWERS, NOT_IN_AUTO, TOWER_KINDS
from .vision import MMVisionConfig

VISION_CONFIGS = {config.model_type: config for config in (MMVisionConfig, MMConvConfig)}
_WIDTHS = ("hidden_size", "d_model")  # ViT, CLIP, AST; Whisper


class TowerSpec(SubConfigSpec):
    """Finds the class of a tower's config by `model_type`: MM's own without Transformers' registry, others by it.

    Args:
        own: {model_type: config class} of MM's own towers of this kind.
        default: the model_type of a dict that names none; None: a dict must name it.
        example: a model_type of Transformers, for the error.
    """

    def __init__(self, own: Mapping[str, type[PreTrainedConfig]], default: str | None, example: str):
        self.own, self.default, self.example = own, default, example
        config_class = PreTrainedConfig if default is None else own[default]
        super().__init__(config_class, model_type=default or example, optional=True)

    def get_config_class(self, model_type: str | None = None):
        model_type = str(model_type)
        if model_type in self.own:
            return self.own[model_type]
        if model_type in CONFIG_MAPPING and not model_type.startswith("mm_"):
            return CONFIG_MAPPING[model_type]
        close = nearest(model_type, [*self.own, *(name for name in CONFIG_MAPPING if not name.startswith("mm_"))])
        accepted = ", ".join([*self.own, f"a model of Transformers such as {self.example!r}"])
        raise ValueError(f"model_type={model_type!r} is not a known tower{close}; accepted: {accepted}")

    def create_subconfig(self, key: str, subconfig: Any = None, **kwargs):
        if not isinstance(subconfig, dict):
            return super().create_subconfig(key, subconfig, **kwargs)
        model_type = subconfig.get("model_type", self.default)
        if model_type is None:
            raise ValueError(f"a dict must name its model_type, for example {self.example!r}")
        config_class = self.get_config_class(model_type)
        if not issubclass(config_class, MMBaseConfig):  # those say it themselves
            warn_of_unknown(config_class, _unread(config_class, subconfig))
        return config_class(**subconfig), kwargs


def _unread(config_class: type[PreTrainedConfig], given: dict[str, Any]) -> list[str]:
    """Names that a class of Transformers neither has as fields nor works out itself (ResNet's stage_names)."""
    known = {*config_class.__dataclass_fields__, *config_class.attribute_map}
    known |= set(inspect.signature(config_class).parameters)  # of a class that is no dataclass
    if not set(given) - known:
        return []
    try:
        plain = config_class(**{name: value for name, value in given.items() if name in known})
    except Exception:  # the class may say anything; it is asked again with all that is given
        return []
    held = plain.to_dict()
    return [name for name in given if name not in held and not hasattr(plain, name)]


def tower_faults(config: PreTrainedConfig, kind: str) -> list[str]:
    """Why a Transformers config cannot be a tower of kind "vision" or "audio".

    A model that somebody else registered is tried when the model is built.
    """
    model_type, accepted = config.model_type, TOWER_KINDS[kind]
    if model_type in accepted or model_type not in CONFIG_MAPPING._mapping:  # of Transformers itself
        return []
    why = next((reason for kinds, reason in NO_TOWERS if model_type in kinds), "no tower of this kind")
    parts = [key for key in ("vision_config", "audio_config") if hasattr(config, key)]
    hint = f"; pass its {parts[0]}" if parts else ""
    return [f"model_type={model_type!r} is {why}{hint}; accepted: {', '.join(accepted)}"]


def tower_model(config: PreTrainedConfig) -> Any:
    """A new model of Transformers by its config. Raises ValueError or KeyError for a config without one."""
    name = NOT_IN_AUTO.get(config.model_type)
    return AutoModel.from_config(config) if name is None else getattr(transformers, name)._from_config(config)


def tower_width(config: PreTrainedConfig) -> int:
    """Width of a tower's tokens: a field of its config, or measured on the meta device.

    Raises: ValueError for a config without a width, such as that of a model of several towers.
    """
    if isinstance(config, MMVisionConfig):
        return config.token_size
    if config.model_type in MEASURED_WIDTH:
        return _measured_width(json.dumps({**config.to_dict(), "dtype": None}, sort_keys=True))
    # Of Wav2Vec2 and its kind; those without an adapter, as UniSpeech-SAT, may say it too.
    if getattr(config, "add_adapter", False) and hasattr(config, "output_hidden_size"):
        return config.output_hidden_size
    for name in _WIDTHS:
        width = getattr(config, name, None)  # which of these a config of Transformers has differs
        if isinstance(width, int):
            return width
    sizes = getattr(config, "hidden_sizes", None)
    if sizes:
        return sizes[-1]
    parts = [key for key in ("vision_config", "audio_config") if hasattr(config, key)]
    hint = f"; pass its {parts[0]}" if parts else ""
    raise ValueError(f"{type(config).__name__} has no width ({', '.join(_WIDTHS)} or hidden_sizes){hint}")


@lru_cache(maxsize=64)
def _measured_width(settings: str) -> int:
    """Channels of the feature map, or width of the tokens, of a vision tower with these settings (JSON)."""
    fields = json.loads(settings)
    config = CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
    try:
        with torch.device("meta"), torch.no_grad():
            tower = tower_model(config).eval()
            for part in tower.modules():
                if type(part) is nn.BatchNorm2d:  # torch takes 2 ms for each on the meta device
                    part.forward = nn.Identity().forward
            tokens = tower(picture_example(config, tower)).last_hidden_state
    except (RuntimeError, ValueError, TypeError, ImportError) as error:
        raise ValueError(f"{type(config).__name__} makes a tower that does not run: {error}") from error
    return (map_tokens(tower, tokens) if tokens.ndim == 4 else tokens).shape[-1]


def map_tokens(tower: Any, features: torch.Tensor) -> torch.Tensor:
    """A feature map (n, C, h, w), or (n, h, w, C) as of timm's Swin, as tokens (n, h * w, C), row by row."""
    width = getattr(getattr(tower, "timm_model", None), "num_features", None)
    if width is not None and features.shape[-1] == width != features.shape[1]:
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)


def picture_example(config: PreTrainedConfig, tower: Any) -> torch.Tensor:
    """One blank picture of the size in a vision tower's config, else of its timm model, or of 224 pixels."""
    size = getattr(config, "image_size", None) or _size_by_timm(getattr(tower, "timm_model", None)) or 224
    height, width = (size, size) if isinstance(size, int) else size
    return torch.zeros(1, getattr(config, "num_channels", 3), height, width)


def _size_by_timm(model: Any) -> tuple[int, int] | None:
    """(height, width): the only size that the model takes, else the size of its training."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return size or (getattr(model, "default_cfg", None) or {}).get("input_size", (0,))[1:] or None
