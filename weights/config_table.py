"""A source's settings under MM's names, and back: a table like that of the tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .key_table import KeyTable, raise_faults

LAYER_KINDS = ("full_attention", "sliding_attention")  # in layer_types


@dataclass(frozen=True)
class Fields:
    """The settings of one kind of stack.

    names: their name -> MM's, the value unchanged.
    ours: settings of MM that every such stack has.
    theirs: settings of the source that have no counterpart, with the one value under which the stack is MM's.
    """

    names: Mapping[str, str]
    ours: Mapping[str, Any] = field(default_factory=dict)
    theirs: Mapping[str, Any] = field(default_factory=dict)

    def convert(self, config: Any) -> dict[str, Any]:
        """MM's settings. Raises ValueError for a setting that MM has no counterpart of."""
        others = {name: getattr(config, name) for name in self.theirs}
        raise_faults(
            f"{type(config).__name__} is not a setting of MM",
            [f"{k}={v!r}, but only {self.theirs[k]!r} is known" for k, v in others.items() if v != self.theirs[k]],
        )
        return {**self.ours, **{new: _plain(getattr(config, old)) for old, new in self.names.items()}}

    def restore(self, settings: Any) -> dict[str, Any]:
        """The source's settings. Raises ValueError where MM's are not such a stack's."""
        found = {name: getattr(settings, name) for name in self.ours}
        raise_faults(
            f"this {type(settings).__name__} is of another kind",
            [f"{k}={v!r}, but it must be {self.ours[k]!r}" for k, v in found.items() if v != self.ours[k]],
        )
        return {**self.theirs, **{old: getattr(settings, new) for old, new in self.names.items()}}


@dataclass(frozen=True)
class VisionFields(Fields):
    """Those of a ViT. oblong: whether the source's class has pictures of two different sides."""

    oblong: bool = False

    def convert(self, config: Any) -> dict[str, Any]:
        settings = super().convert(config)
        self._check_oblong(settings["image_size"])
        return settings | partial_patches(settings["image_size"], settings["patch_size"])

    def restore(self, settings: Any) -> dict[str, Any]:
        self._check_oblong(settings.image_size)
        return super().restore(settings)

    def _check_oblong(self, size: Any) -> None:
        if isinstance(size, list) and not self.oblong:
            raise ValueError(f"image_size={size} has two sides; this kind of model has pictures of one, squares")


@dataclass(frozen=True)
class TowerPlan:
    """How one stack is converted.

    settings: of its MM config. table: names of the source's part -> names in the stack. head: names of the source's
    part -> names in a whole model, for a language-modelling head, and head_settings of MMConfig that go with it.
    opens: a text begins with a token of its own.
    """

    settings: dict[str, Any]
    table: KeyTable
    head: KeyTable = field(default_factory=KeyTable)
    head_settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    opens: bool = True


def partial_patches(size: Any, patch: Any) -> dict[str, Any]:
    """The setting that goes with sides that are no multiples of a patch: all peers leave the rest unseen."""
    if isinstance(patch, list):
        raise ValueError(f"patch_size={patch} has unequal sides; MM's patches are squares")
    sides = size if isinstance(size, list) else [size]
    return {"drop_partial_patches": True} if any(side % patch for side in sides) else {}


def windows(kinds: list[str] | None, window: int | None) -> dict[str, Any]:
    """The settings of layers that see a window: `window` tokens, their own among them.

    Args:
        kinds: of each layer, "full_attention" or "sliding_attention"; None: all are full.
    Raises: ValueError for other kinds, and for a window that says nothing.
    """
    kinds = kinds or []
    other = sorted(set(kinds) - set(LAYER_KINDS))
    if other:
        raise ValueError(f"layer_types name {', '.join(other)}; known are {', '.join(LAYER_KINDS)}")
    layers = [number for number, kind in enumerate(kinds) if kind == LAYER_KINDS[1]]
    if not layers:
        return {}
    if window is None or window < 2:
        raise ValueError(f"sliding_window={window}, but layer_types name layers with a window; it must be at least 2")
    return {"local_attention_layers": layers, "local_attention_window": window - 1}


def source_config(settings: Mapping[str, Any]) -> Any:
    """The installed class's config of a config.json, defaults filled in. Raises ValueError for an unknown kind."""
    kind = str(settings.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"model_type={kind!r} is no model of this Transformers")
    return CONFIG_MAPPING[kind].from_dict(dict(settings))


def untrained(config: Any) -> tuple[str, ...]:
    """A note that names what a decoder of BART's kind drops in training and MM's does not."""
    names = [name for name in ("activation_dropout", "decoder_layerdrop") if getattr(config, name)]
    told = ", ".join(f"{name}={getattr(config, name)}" for name in names)
    return (f"{told}: MM's decoder is trained without",) if told else ()


def prefix_of(names: Iterable[str], anchor: str) -> str:
    """The part before `anchor` in the one name that ends with it. Raises ValueError if no name does."""
    found = [name.removesuffix(anchor) for name in names if name.endswith(anchor)]
    if not found:
        raise ValueError(f"no tensor is named ...{anchor}, which this kind of model has")
    return min(found, key=len)


def outer_prefix(prefix: str) -> str:
    """`decoder.bert.` -> `decoder.`: the place of the head in a model with this base."""
    return prefix[: prefix.rstrip(".").rfind(".") + 1] if prefix else ""


def _plain(value: Any) -> Any:
    """Sizes of two equal sides as one number."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return value[0] if value[0] == value[1] else list(value)
    return value
