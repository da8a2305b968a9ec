"""Parts inside MMConfig: MM's own configs, or those of any Transformers tower, found by `model_type`."""

from collections.abc import Mapping
from typing import Any

from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .conv import MMConvConfig
from .stack import nearest
from .vision import MMVisionConfig

VISION_CONFIGS = {config.model_type: config for config in (MMVisionConfig, MMConvConfig)}
_WIDTHS = ("hidden_size", "d_model", "num_features")  # ViT, CLIP, AST; Whisper; timm


class TowerSpec(SubConfigSpec):
    """Resolves MM's own towers by `model_type` without the registry, so remote code needs none; others by it.

    Args:
        own: {model_type: config class} of MM's own towers of this kind.
        default: the model_type of a dict that names none; None: it must name one.
        example: a foreign model_type, for the error.
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
        known = [*self.own, *CONFIG_MAPPING]
        raise ValueError(
            f"model_type={model_type!r} is neither one of MM's towers {list(self.own)} nor a model of Transformers "
            f"such as {self.example!r}{nearest(model_type, known)}"
        )

    def create_subconfig(self, key: str, subconfig: Any = None, **kwargs):
        if not isinstance(subconfig, dict):
            return super().create_subconfig(key, subconfig, **kwargs)
        model_type = subconfig.get("model_type", self.default)
        if model_type is None:
            raise ValueError(f"a dict must name its model_type, for instance {self.example!r}")
        return self.get_config_class(model_type)(**subconfig), kwargs


def tower_width(config: PreTrainedConfig) -> int:
    """Width of a tower's tokens.

    Raises: ValueError for a config that names no width, as of a model made of several towers.
    """
    for name in _WIDTHS:
        width = getattr(config, name, None)  # of another library: which of these it has is what is asked
        if isinstance(width, int):
            return width
    sizes = getattr(config, "hidden_sizes", None)
    if sizes:
        return sizes[-1]
    parts = [key for key in ("vision_config", "audio_config") if hasattr(config, key)]
    hint = f"; pass its {parts[0]}" if parts else ""
    raise ValueError(f"{type(config).__name__} has no width ({', '.join(_WIDTHS)} or hidden_sizes){hint}")
