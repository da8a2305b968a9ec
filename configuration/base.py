"""What every MM configuration shares: its checks, and the fields of a stack of layers."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import GenerationConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from .auto_map import finish_config, kept, register_for_auto_class
from .hub_files import fetched, is_repository
from .reference import documented
from .settings import flat, groups_of, nearest, range_faults, setting

logger = logging.get_logger(__name__)

# What Transformers passes to a config in addition to its fields.
_TRANSFORMERS_KEYS = {
    "name_or_path", "torch_dtype", "attn_implementation", "experts_implementation", "output_attentions", "num_labels",
    "transformers_version", "model_type", "auto_map", "custom_pipelines", "quantization_config", "per_layer_config",
    "rope_scaling", "rope_theta", "use_return_dict",
}  # fmt: skip


class ConfigFaults(ValueError):
    """All problems of one configuration in one error; `faults` lists them, one sentence each."""

    def __init__(self, owner: str, faults: list[str]):
        self.faults = faults
        problems = "a problem" if len(faults) == 1 else f"{len(faults)} problems"
        super().__init__(f"{owner} has {problems}:\n" + "\n".join(f"  - {fault}" for fault in faults))


def checked(cls):
    """`@strict` for a configuration: with plain errors, groups of settings, and a docstring that lists every field.

    huggingface_hub's strict dataclasses raise an exception of their own; users catch ValueError and TypeError.
    """
    cls = documented(strict(cls))
    for name in ("__init__", "__setattr__", "validate"):
        setattr(cls, name, _unwrapping(getattr(cls, name)))
    return cls


def _unwrapping(method):
    @wraps(method)
    def unwrapped(self, *args, **kwargs):
        try:
            return method(self, *args, **(flat(type(self), kwargs) if kwargs else {}))
        except StrictDataclassClassValidationError as error:
            raise error.__cause__ or ValueError(str(error)) from None
        except StrictDataclassFieldValidationError as error:
            kind = TypeError if isinstance(error.__cause__, TypeError) else ValueError
            raise kind(f"{type(self).__name__}: {error.__cause__ or error}") from None

    return unwrapped


def overridden(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`fields` with `changes`; the dicts of a sub-config are merged, unless its model_type changes."""
    result = dict(fields)
    for name, value in changes.items():
        old = result.get(name)
        old = old.to_dict() if isinstance(old, PreTrainedConfig) and isinstance(value, dict) else old
        if isinstance(value, dict) and isinstance(old, dict):
            kind = old.get("model_type")
            value = {**old, **value} if value.get("model_type", kind) == kind else value
        result[name] = value
    return result


def unknown_fields(cls: type[PreTrainedConfig], names: Iterable[str]) -> list[str]:
    """A sentence for each name that is no field of a configuration class, with the nearest one."""
    names = list(names)
    synonyms = (name for name in names if isinstance(getattr(cls, name, None), property))
    known = {*cls.__dataclass_fields__, *cls.attribute_map, *groups_of(cls), *synonyms}
    left = (name for name in names if name not in known and name not in _TRANSFORMERS_KEYS)
    return [f"{cls.__name__} has no field {name!r}{nearest(name, known)}" for name in left]


def warn_of_unknown(cls: type[PreTrainedConfig], given: Iterable[str]) -> None:
    """Says which names are no fields of a configuration class, as nothing reads them."""
    generation = GenerationConfig._get_default_generation_params()
    left = [name for name in given if name not in generation and not name.startswith("_")]
    for fault in unknown_fields(cls, left):
        logger.warning(f"{fault}; it changes nothing.")


@contextmanager
def _naming(source: Any, cls: type, changes: Mapping[str, Any]) -> Iterator[None]:
    """Errors of a config.json become ValueErrors that name it; not if the caller changed fields, whose errors they
    may be."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # any value may stand in the file, and a sub-config may be of another package
        is_named = source is None or str(source) in str(error)
        if is_named or any(name in cls.__dataclass_fields__ or name in groups_of(cls) for name in changes):
            raise
        place = source if str(source).endswith(".json") else f"{source}/config.json"
        if isinstance(error, ConfigFaults):
            raise ConfigFaults(f"{place}: {cls.__name__}", error.faults) from None
        raise ValueError(f"{place} cannot be read as {cls.__name__}: {type(error).__name__}: {error}") from error


class MMBaseConfig(PreTrainedConfig):
    """A configuration that warns of unknown fields and reports all its problems at once."""

    def __post_init__(self, **kwargs: Any):
        model_type = kwargs.get("model_type", self.model_type)
        if model_type != self.model_type:
            raise ConfigFaults(
                type(self).__name__, [f"model_type={model_type!r} is of another model; it must be {self.model_type!r}"]
            )
        warn_of_unknown(type(self), kwargs)
        super().__post_init__(**kept(kwargs))

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoConfig") -> None:
        register_for_auto_class(cls, auto_class)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in Transformers; of a repository on the Hub that cannot be read, what the server answered.

        Raises: OSError or ValueError that names the config.json, for one that is broken.
        """
        if is_repository(pretrained_model_name_or_path):
            fetched(str(pretrained_model_name_or_path), "config.json", kwargs, is_needed=True)
        with _naming(pretrained_model_name_or_path, cls, kwargs):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file):
        """Transformers' reader of config.json; RecursionError is for it no JSON either, nor is another value."""
        try:
            held = super()._dict_from_json_file(json_file)
        except RecursionError as error:
            raise ValueError(f"{str(json_file)!r} is not JSON: {error}") from error
        if not isinstance(held, dict):
            raise ValueError(f"{str(json_file)!r} holds {type(held).__name__}, not a JSON object")
        return held

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs) -> None:
        """As in Transformers, with a file that finds the classes where MM is not imported (`auto_map.py`)."""
        super().save_pretrained(save_directory, push_to_hub, **kwargs)
        finish_config(Path(save_directory), self)

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        finish_config(Path(working_dir), self)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As in Transformers, but fields among the keywords replace those of config_dict before anything is checked.

        A dict for a sub-config is merged with the one in config_dict, unless its model_type is another.
        """
        own = set(cls.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)  # dtype="auto" is no value
        own |= set(groups_of(cls))
        fields = {name: kwargs.pop(name) for name in [*kwargs] if name in own}
        with _naming(kwargs.get("name_or_path"), cls, fields):  # AutoConfig reads the file and comes here
            made = super().from_dict(overridden(cls.flat(config_dict), cls.flat(fields)), **kwargs)
            (made[0] if isinstance(made, tuple) else made).validate_architecture()  # the other keywords were set on it
        return made

    @classmethod
    def flat(cls, given: dict[str, Any]) -> dict[str, Any]:
        """`given` with the settings of groups (`fusion={"type": ...}`) under their own names, in sub-configs too."""
        fields = flat(cls, given)
        for key, spec in cls.sub_configs_defaults.items():
            if isinstance(fields.get(key), dict) and issubclass(spec.config_class, MMBaseConfig):
                fields[key] = spec.config_class.flat(fields[key])
        return fields

    def update(self, config_dict: dict[str, Any]) -> None:
        """Sets these fields and checks them all; if one breaks a rule, nothing is changed."""
        before = dict(vars(self))
        try:
            super().update(self.flat(config_dict))
            self.validate_architecture()
        except (ValueError, TypeError):
            vars(self).clear()
            vars(self).update(before)
            raise

    def faults(self) -> list[str]:
        """Every broken rule, as a sentence that names the setting to change."""
        return range_faults(self)

    def _inherited_faults(self) -> list[str]:
        """Of the fields that Transformers does not check, and that loading reads."""
        names, dtype, faults = self.architectures, self.dtype, []
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            faults.append(f"architectures={names!r:.60} must be a list of class names")
        if dtype == {} or not isinstance(dtype, str | torch.dtype | dict | None):
            faults.append(f"dtype={dtype!r:.60} must be a name such as 'float32', or a torch.dtype")
        return faults

    def validate_architecture(self):
        faults = [*self._inherited_faults(), *self.faults()]
        if faults:
            raise ConfigFaults(type(self).__name__, faults)


class MMStackConfig(MMBaseConfig):
    """The fields of a stack of layers: a vision tower, a text encoder or a decoder.

    A layer is made of residual sublayers (self-attention, cross-attention, MLP); these fields say how each is built.
    """

    attribute_map = {"rms_norm_eps": "layer_norm_eps"}
    # Every layer reads these; only MMResamplerConfig has them as fields.
    residual = True
    append_latents = False
    # And this, a field of MMTextConfig.
    attn_logit_softcapping = None

    hidden_size: int = setting(768, "width of the states", "MMLayer", values="> 0")
    intermediate_size: int = setting(3072, "inner width of the MLP", "MMMLP", values="> 0")
    num_hidden_layers: int = setting(
        12,
        "layers in all, those with only cross-attention among them",
        "MMTextModel, MMVisionModel, MMResampler",
        values="1..1000",
    )
    num_attention_heads: int = setting(12, "heads of the queries", "MMAttention", values="> 0")
    num_key_value_heads: int | None = setting(
        None, "heads of the keys and values; None: num_attention_heads", "MMAttention", values="> 0"
    )
    head_dim: int | None = setting(
        None, "width of one head; None: hidden_size // num_attention_heads", "MMAttention", values="> 0"
    )
    hidden_act: str = setting(
        "gelu", "activation of the MLP", "MMMLP", values="a name of transformers.activations.ACT2FN"
    )
    gated_mlp: bool = setting(
        False, "the MLP is down(act(gate(x)) * up(x)), as in Llama, instead of down(act(up(x)))", "MMMLP"
    )
    mlp_bias: bool = setting(True, "the MLP's linear layers have biases", "MMMLP")
    attention_bias: bool | str = setting(
        True,
        'biases of the projections q, k, v and o; a string names those that have one, "qvo" as in Whisper',
        "MMAttention",
    )
    qk_norm: Literal["none", "rms_norm", "rms_norm_from_one", "layer_norm"] = setting(
        "none", "norm of queries and keys, per head, before the keys are cached", "MMAttention"
    )
    norm_type: Literal["layer_norm", "layer_norm_no_bias", "rms_norm", "rms_norm_from_one"] = setting(
        "layer_norm", "kind of every norm; from one: its weights are distances from 1, as in Gemma", "MMLayer"
    )
    norm_position: Literal["pre", "post", "both"] = setting(
        "pre",
        "norm before each sublayer, or after its residual sum; both: before each sublayer, and of what self-attention "
        "and the MLP made before that is added (Gemma 2)",
        "MMLayer",
    )
    parallel_residual: bool = setting(
        False,
        "attention and MLP read the same states side by side, as in GPT-NeoX and Phi; False: the MLP reads what "
        "attention made",
        "MMLayer",
    )
    layer_norm_eps: float = setting(1e-12, "added to the variance in every norm", "MMLayer", values="> 0")
    embedding_norm: bool = setting(False, "a norm after the embeddings", "MMTextModel, MMVisionModel")
    final_norm: Literal["all", "pooled", "none"] = setting(
        "all", "a norm after the last layer; pooled: only on what the pooler reads", "MMTextModel, MMVisionModel"
    )
    position_embedding_type: Literal["absolute", "rope", "relative", "sinusoidal", "none"] = setting(
        "absolute",
        "learned positions, rotary ones, learned distances in self-attention (T5), fixed sines, or none",
        "MMTextModel, MMVisionModel",
    )
    attention_scale: float | None = setting(
        None, "factor of the scores; None: head_dim ** -0.5", "MMAttention", values="> 0"
    )
    attention_dropout: float | int = setting(0.0, "dropout of attention weights", "MMAttention", values="in [0, 1)")
    hidden_dropout: float | int = setting(
        0.0, "dropout of the embeddings and of every sublayer", "MMLayer", values="in [0, 1)"
    )
    initializer_range: float = setting(
        0.02, "standard deviation of the initial weights", "MMPreTrainedModel", values="> 0"
    )
    pooler: Literal["none", "cls", "cls_tanh", "eos", "highest_id", "last", "before_last", "mean", "attention"] = (
        setting("cls", "which one vector stands for all tokens (pooler_output)", "MMPooler")
    )

    def __post_init__(self, **kwargs: Any):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        heads = self.num_attention_heads
        if self.head_dim is None and heads > 0 and self.hidden_size % heads == 0:
            self.head_dim = self.hidden_size // heads  # otherwise it stays None, which is a fault
        super().__post_init__(**kwargs)

    def faults(self) -> list[str]:
        faults = super().faults()
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads or 1
        if self.head_dim is None and heads > 0 and self.hidden_size > 0:
            faults.append(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={heads}; change one, or set "
                "head_dim"
            )
        if heads > 0 and kv_heads > 0 and heads % kv_heads:
            faults.append(f"num_attention_heads={heads} is not a multiple of num_key_value_heads={kv_heads}")
        if self.parallel_residual and self.norm_position != "pre":
            faults.append(
                f"parallel_residual=True needs norm_position='pre'; norm_position={self.norm_position!r} norms what "
                "each sublayer made"
            )
        if self.hidden_act not in ACT2FN:
            faults.append(f"hidden_act={self.hidden_act!r} is not an activation{nearest(self.hidden_act, ACT2FN)}")
        if isinstance(self.attention_bias, str) and not set(self.attention_bias) <= set("qkvo"):
            faults.append(f"attention_bias={self.attention_bias!r} must be True, False or letters of 'qkvo'")
        return faults
