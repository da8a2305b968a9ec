"""MMConfig: how the towers, the fusion and the head of one model fit together."""

from typing import Any, Literal

from transformers.configuration_utils import SubConfigSpec

from .conv import MMConvConfig
from .presets import PRESETS
from .stack import ConfigFaults, MMBaseConfig, checked, nearest, positive, shares
from .text import MMTextConfig
from .vision import MMVisionConfig

MODALITIES = ("image",)
VISION_CONFIGS = {config.model_type: config for config in (MMVisionConfig, MMConvConfig)}


class VisionConfigSpec(SubConfigSpec):
    """Resolves MM's own vision configs by `model_type` without the registry, so remote code needs none."""

    def __init__(self):
        super().__init__(MMVisionConfig, optional=True)

    def create_subconfig(self, key, subconfig=None, **kwargs):
        if not isinstance(subconfig, dict):
            return super().create_subconfig(key, subconfig, **kwargs)
        model_type = subconfig.get("model_type", MMVisionConfig.model_type)
        if model_type not in VISION_CONFIGS:
            raise ValueError(
                f"model_type={model_type!r} is not a vision tower of this version; accepted: "
                f"{', '.join(VISION_CONFIGS)}{nearest(model_type, VISION_CONFIGS)}"
            )
        return VISION_CONFIGS[model_type](**subconfig), kwargs


@checked
class MMConfig(MMBaseConfig):
    """One multimodal model: media towers, a projector, a fusion, a text decoder and its head.

    The defaults are mm-base (224.3 M parameters): ViT-B/16 at 224 pixels, a linear projector, and 12 post-norm layers
    (self, cross, mlp) with BERT's vocabulary and its tied, biased head. `MMConfig.preset(name)` gives other sizes.
    """

    model_type = "mm"
    sub_configs_defaults = {"vision_config": VisionConfigSpec(), "text_config": SubConfigSpec(MMTextConfig)}
    keys_to_ignore_at_inference = [
        "past_key_values", "hidden_states", "attentions", "cross_attentions", "context_hidden_states",
        "context_attention_mask", "modality_embeds",
    ]  # fmt: skip

    modalities: list[str] | None = None  # media accepted; None: ["image"]. Others are refused by name
    vision_config: Any = None  # MMVisionConfig, MMConvConfig or a dict (mm_vision unless it names its model_type)
    text_config: Any = None  # MMTextConfig or a dict
    projector_type: Literal["linear", "none", "linear_norm", "mlp"] = "linear"  # tower width -> the reader's width
    projector_norm_eps: float = 1e-5
    max_images: int = 0  # learned vector per picture number; 0: the pictures of a context have no order
    fusion_type: Literal["cross_attention"] = "cross_attention"
    lm_head_transform: bool = True  # BERT's head: dense, activation, norm before the vocabulary
    lm_head_bias: bool = True
    tie_word_embeddings: bool = True
    label_smoothing: float | int = 0.0
    check_inputs: bool = True  # NaN pixels and ids outside the vocabulary raise (never inside compile and export)
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any):
        if self.modalities is None:
            self.modalities = ["image"]
        if self.vision_config is None and "image" in self.modalities:
            self.vision_config = {}
        self._build_sub_configs()
        text = self.text_config
        if isinstance(text, MMTextConfig) and text.cross_attention_layers is None:
            text.cross_attention_layers = list(range(text.num_hidden_layers))
        super().__post_init__(**kwargs)

    def _build_sub_configs(self) -> None:
        """Builds every sub-config here, so that the faults of all of them come in one error."""
        faults = []
        for key, spec in type(self).sub_configs_defaults.items():
            value = getattr(self, key)
            if value is None and spec.optional:
                continue
            try:
                setattr(self, key, spec.create_subconfig(key, value)[0])
            except ConfigFaults as error:
                faults += [f"{key}: {fault}" for fault in error.faults]
            except (ValueError, TypeError) as error:
                faults.append(f"{key}: {error}")
        if faults:
            raise ConfigFaults(type(self).__name__, self._own_faults() + faults)

    @classmethod
    def preset(cls, name: str, **overrides) -> "MMConfig":
        """The configuration of a named size; `overrides` replace top-level fields, sub-config dicts are merged."""
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is unknown{nearest(name, PRESETS)}; accepted: {', '.join(PRESETS)}")
        fields: dict[str, Any] = dict(PRESETS[name])
        for key, value in overrides.items():
            both_dicts = isinstance(value, dict) and isinstance(fields.get(key), dict)
            fields[key] = {**fields[key], **value} if both_dicts else value
        return cls(**fields)

    @property
    def vision_size(self) -> int:
        """Width of the vision tower's tokens."""
        return self.vision_config.hidden_size

    def _own_faults(self) -> list[str]:
        """What is wrong with the fields of this config alone."""
        faults = positive(self, "projector_norm_eps", "initializer_range") + shares(self, "label_smoothing")
        modalities = self.modalities or []
        if not modalities or not set(modalities) <= set(MODALITIES):
            faults.append(f"modalities={modalities} must name one or more of {list(MODALITIES)}")
        if len(set(modalities)) != len(modalities):
            faults.append(f"modalities={modalities} names one twice")
        if self.max_images < 0:
            faults.append(f"max_images={self.max_images} must not be negative")
        return faults

    def faults(self) -> list[str]:
        faults = self._own_faults()
        if not isinstance(self.text_config, MMTextConfig):
            faults.append(f"text_config is a {type(self.text_config).__name__}; MM's decoder wants MMTextConfig")
            return faults
        if type(self.vision_config) not in VISION_CONFIGS.values():
            faults.append(
                f"vision_config is a {type(self.vision_config).__name__}; accepted: "
                f"{', '.join(c.__name__ for c in VISION_CONFIGS.values())}"
            )
            return faults
        # Again, for a sub-config was filled in above, or changed since it was made.
        for key in ("vision_config", "text_config"):
            faults += [f"{key}: {fault}" for fault in getattr(self, key).faults()]
        return faults + self._fusion_faults(self.text_config)

    def _fusion_faults(self, text: MMTextConfig) -> list[str]:
        faults = []
        if not text.cross_attention_layers:
            faults.append(
                "fusion_type='cross_attention' needs a decoder that cross-attends, but "
                "text_config.cross_attention_layers=[]; list a layer, or None for all"
            )
        if self.projector_type == "none" and self.vision_size != text.memory_size:
            faults.append(
                f"projector_type='none' needs equal widths, but the vision tower gives {self.vision_size} and the "
                f"decoder reads {text.memory_size}; set projector_type='linear' or "
                f"text_config.cross_attention_hidden_size={self.vision_size}"
            )
        return faults
