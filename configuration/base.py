"""What every MM configuration shares: checking once, in words, and the fields of one stack of layers."""

import difflib
import math
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import GenerationConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from .auto_map import finish_config, kept, register_for_auto_class

logger = logging.get_logger(__name__)

# What Transformers itself hands to a config beyond its fields.
_TRANSFORMERS_KEYS = {
    "name_or_path", "torch_dtype", "attn_implementation", "experts_implementation", "output_attentions", "num_labels",
    "transformers_version", "model_type", "auto_map", "custom_pipelines", "quantization_config", "per_layer_config",
    "rope_scaling", "rope_theta", "use_return_dict",
}  # fmt: skip


class ConfigFaults(ValueError):
    """Everything wrong with one configuration, in one error; `faults` holds the sentences."""

    def __init__(self, owner: str, faults: list[str]):
        self.faults = faults
        super().__init__(f"{owner} has {len(faults)} fault(s):\n" + "\n".join(f"  - {fault}" for fault in faults))


def checked(cls):
    """`@strict`, with its faults raised as the ValueError or TypeError they are.

    huggingface_hub's strict dataclasses raise an exception of their own that is neither; users catch ValueError.
    """
    cls = strict(cls)
    for name in ("__init__", "__setattr__", "validate"):
        setattr(cls, name, _unwrapping(getattr(cls, name)))
    return cls


def _unwrapping(method):
    @wraps(method)
    def unwrapped(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except StrictDataclassClassValidationError as error:
            raise error.__cause__ or ValueError(str(error)) from None
        except StrictDataclassFieldValidationError as error:
            kind = TypeError if isinstance(error.__cause__, TypeError) else ValueError
            raise kind(f"{type(self).__name__}: {error.__cause__ or error}") from None

    return unwrapped


def nearest(name: str, known) -> str:
    """` (did you mean 'x'?)`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" (did you mean {close[0]!r}?)" if close else ""


def positive(config, *names: str) -> list[str]:
    """One fault for each named field that is not a positive, finite number; None passes."""
    faults = []
    for name in names:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            faults.append(f"{name}={value} must be positive")
    return faults


def shares(config, *names: str) -> list[str]:
    """One fault for each named field outside 0 <= x < 1."""
    return [f"{n}={getattr(config, n)} must be in [0, 1)" for n in names if not 0 <= getattr(config, n) < 1]


def overridden(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`fields` with `changes`: dicts of a part are merged, unless the part becomes one of another model_type."""
    result = dict(fields)
    for name, value in changes.items():
        old = result.get(name)
        old = old.to_dict() if isinstance(old, PreTrainedConfig) and isinstance(value, dict) else old
        if isinstance(value, dict) and isinstance(old, dict):
            kind = old.get("model_type")
            value = {**old, **value} if value.get("model_type", kind) == kind else value
        result[name] = value
    return result


class MMBaseConfig(PreTrainedConfig):
    """A configuration that names its unknown keys and lists all its faults at once."""

    def __post_init__(self, **kwargs: Any):
        model_type = kwargs.get("model_type", self.model_type)
        if model_type != self.model_type:
            raise ConfigFaults(
                type(self).__name__, [f"model_type={model_type!r} is another model's; expected {self.model_type!r}"]
            )
        self._warn_of_unknown(kwargs)
        super().__post_init__(**kept(kwargs))

    register_for_auto_class = classmethod(register_for_auto_class)  # pyright: ignore[reportAssignmentType]

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> None:
        """As in Transformers, with what finds the classes for those who have not imported MM (`auto_map.py`)."""
        super().save_pretrained(save_directory, push_to_hub, **kwargs)
        finish_config(Path(save_directory), self)

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        finish_config(Path(working_dir), self)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def _warn_of_unknown(self, kwargs: dict[str, Any]) -> None:
        synonyms = (name for name in kwargs if isinstance(getattr(type(self), name, None), property))
        known = {*self.__dataclass_fields__, *self.attribute_map, *synonyms}
        generation = GenerationConfig._get_default_generation_params()
        for key in kwargs:
            if key in known or key in _TRANSFORMERS_KEYS or key in generation or key.startswith("_"):
                continue
            logger.warning(f"{type(self).__name__} has no field {key!r}{nearest(key, known)}; it changes nothing.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As in Transformers; fields among the keywords are part of what is built and checked, not set afterwards.

        A dict for a part is merged with what config_dict has of it, unless it is of another model_type.
        """
        own = set(cls.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)  # dtype="auto" is no value
        fields = {name: kwargs.pop(name) for name in [*kwargs] if name in own}
        made = super().from_dict(overridden(config_dict, fields), **kwargs)
        (made[0] if isinstance(made, tuple) else made).validate_architecture()  # the other keywords were set on it
        return made

    def update(self, config_dict: dict[str, Any]) -> None:
        """Sets these fields and checks them all; one that breaks a rule leaves everything as it was."""
        before = dict(vars(self))
        try:
            super().update(config_dict)
            self.validate_architecture()
        except (ValueError, TypeError):
            vars(self).clear()
            vars(self).update(before)
            raise

    def faults(self) -> list[str]:
        """Every broken rule, as a sentence that names the setting to change."""
        return []

    def validate_architecture(self):
        faults = self.faults()
        if faults:
            raise ConfigFaults(type(self).__name__, faults)


class MMStackConfig(MMBaseConfig):
    """The fields of one stack of layers: a vision tower, a text encoder or a decoder.

    A layer is a list of residual sublayers out of {self, cross, mlp}; these fields say how each is built.
    """

    attribute_map = {"rms_norm_eps": "layer_norm_eps"}
    # Fields of MMResamplerConfig alone, which every layer reads.
    residual = True
    append_latents = False

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12  # all layers, [cross, mlp] layers too
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None  # None: num_attention_heads
    head_dim: int | None = None  # None: hidden_size // num_attention_heads
    hidden_act: str = "gelu"  # a name of transformers.activations.ACT2FN
    gated_mlp: bool = False  # down(act(gate(x)) * up(x)) instead of down(act(up(x)))
    mlp_bias: bool = True
    attention_bias: bool | str = True  # or the letters of q, k, v, o that carry one: "qvo" is Whisper's
    qk_norm: Literal["none", "rms_norm", "layer_norm"] = "none"  # per head, before the keys are cached
    norm_type: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_position: Literal["pre", "post"] = "pre"
    layer_norm_eps: float = 1e-12
    embedding_norm: bool = False
    final_norm: Literal["all", "pooled", "none"] = "all"  # "pooled": only what the pooler reads
    # The one switch; "rope" and "sinusoidal" are of texts alone.
    position_embedding_type: Literal["absolute", "rope", "sinusoidal", "none"] = "absolute"
    attention_scale: float | None = None  # None: head_dim ** -0.5
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    initializer_range: float = 0.02  # standard deviation of the initial weights
    pooler: Literal["none", "cls", "cls_tanh", "eos", "highest_id", "last", "before_last", "mean", "attention"] = "cls"

    def __post_init__(self, **kwargs: Any):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        heads = self.num_attention_heads
        if self.head_dim is None and heads > 0 and self.hidden_size % heads == 0:
            self.head_dim = self.hidden_size // heads  # otherwise it stays None, which is a fault
        super().__post_init__(**kwargs)

    @property
    def mlp_sizes(self) -> tuple[str, ...]:
        """The sizes of the MLP, if there is one."""
        return ("intermediate_size",)

    def faults(self) -> list[str]:
        sizes = ("hidden_size", *self.mlp_sizes, "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        faults = positive(self, *sizes, "head_dim", "layer_norm_eps", "attention_scale", "initializer_range")
        faults += shares(self, "attention_dropout", "hidden_dropout")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads or 1
        if self.head_dim is None and heads > 0 and self.hidden_size > 0:
            faults.append(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={heads}; change one, or set "
                "head_dim"
            )
        if heads > 0 and kv_heads > 0 and heads % kv_heads:
            faults.append(f"num_attention_heads={heads} is not a multiple of num_key_value_heads={kv_heads}")
        if self.hidden_act not in ACT2FN:
            faults.append(f"hidden_act={self.hidden_act!r} is not an activation{nearest(self.hidden_act, ACT2FN)}")
        if isinstance(self.attention_bias, str) and not set(self.attention_bias) <= set("qkvo"):
            faults.append(f"attention_bias={self.attention_bias!r} must be a bool or letters out of 'qkvo'")
        return faults
