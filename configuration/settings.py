"""One setting of a configuration, said once: its default, its meaning, its range, its reader, its group.

    hidden_size: int = setting(768, "width of the states", "MMLayer", values="> 0")

The range is checked (`range_faults`), and the rest is what `help(mm.MMConfig)` and docs/configuration.md print
(`reference.py`). Settings of one group may be given together, and are stored, saved and read under their own names:

    MMConfig(fusion={"type": "merged", "mask": "causal"})  ==  MMConfig(fusion_type="merged", fusion_mask="causal")
    config.fusion.type                                     ==  config.fusion_type
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

# A range -> (what a value must be, whether it is so).
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "> 0": ("must be positive", lambda value: math.isfinite(value) and value > 0),
    ">= 0": ("must not be negative", lambda value: math.isfinite(value) and value >= 0),
    "in [0, 1)": ("must be in [0, 1)", lambda value: 0 <= value < 1),
    "in [0, 1]": ("must be in [0, 1]", lambda value: 0 <= value <= 1),
    "1..1000": ("must be in 1..1000", lambda value: 1 <= value <= 1000),  # parts that are built one by one
    "(finite)": ("must be finite", math.isfinite),
}


class Setting(NamedTuple):
    """name, type, default: the field's. meaning, read_by, values: see `setting`. group: "" for none."""

    name: str
    type: Any
    default: Any
    meaning: str
    read_by: str
    values: str
    group: str

    @property
    def short(self) -> str:
        """Its name inside its group: `mask` of `fusion_mask`."""
        return self.name.removeprefix(f"{self.group}_")


def setting(default: Any, meaning: str, read_by: str, *, values: str = "") -> Any:
    """A field of a configuration. A subclass that changes only the default writes `name: type = default`.

    Args:
        meaning: in a few words, with the unit; what None or 0 stands for.
        read_by: the class or function that acts on it.
        values: a key of RANGES, which is then checked, or words; "" where the type says all.
    """
    if values in RANGES and default is not None and not RANGES[values][1](default):
        raise ValueError(f"the default {default!r} is outside of its range {values}")
    return dataclasses.field(default=default, metadata={"meaning": meaning, "read_by": read_by, "values": values})


class SettingsGroup:
    """`fusion = SettingsGroup()` in a class makes its fields the group "fusion": `config.fusion.type`.

    `config.fusion = {...}` sets those that it names and leaves the others.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        return self if config is None else SettingsView(config, groups_of(type(config))[self.name])

    def __set__(self, config: Any, value: Any) -> None:
        for name, one in flat(type(config), {self.name: value}).items():
            setattr(config, name, one)


@lru_cache
def settings_of(cls: type) -> dict[str, Setting]:
    """The settings of a configuration class by name, without those of Transformers' PreTrainedConfig."""
    found = {}
    for name, own in cls.__dataclass_fields__.items():
        for base in cls.__mro__:
            field = vars(base).get("__dataclass_fields__", {}).get(name)
            if field is not None and field.metadata:
                found[name] = Setting(name, own.type, own.default, **field.metadata, group=_group(cls, name))
                break
    return found


def _group(cls: type, name: str) -> str:
    """The group of the class that says the field first; "" where that has none."""
    first = [base for base in cls.__mro__ if name in vars(base).get("__annotations__", {})][-1]
    return next((key for key, value in vars(first).items() if isinstance(value, SettingsGroup)), "")


def range_faults(config: Any) -> list[str]:
    """One sentence for each setting outside its range; None, and what is no number, passes."""
    faults = []
    for one in settings_of(type(config)).values():
        value = getattr(config, one.name)
        if one.values in RANGES and isinstance(value, int | float):
            must, holds = RANGES[one.values]
            if not holds(value):
                faults.append(f"{one.name}={value} {must}")
    return faults


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing. Close in spelling, else the only one that has the name as its last word."""
    known = list(known)
    ending = [one for one in known if one.endswith(f"_{name}")]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7) or (ending if len(ending) == 1 else [])
    return f" (did you mean {close[0]!r}?)" if close else ""


# ---- groups --------------------------------------------------------------------------------------------------------


@lru_cache
def groups_of(cls: type) -> dict[str, dict[str, str]]:
    """{group: {short name: name}} of a configuration class."""
    groups: dict[str, dict[str, str]] = {}
    for one in settings_of(cls).values():
        if one.group:
            groups.setdefault(one.group, {})[one.short] = one.name
    return groups


def flat(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with the settings of every group under their own names.

    Raises: TypeError for a group that is no dict; ValueError for a name that it does not have, and for a setting given
        in both ways with different values.
    """
    groups = groups_of(cls)
    result = {name: value for name, value in given.items() if name not in groups}
    for group, names in groups.items():
        inside = given.get(group)
        if inside is None:
            continue
        if not isinstance(inside, Mapping):
            raise TypeError(f"{group} is a {type(inside).__name__}; accepted: a dict with any of {', '.join(names)}")
        for short, value in inside.items():
            if short not in names:
                accepted = f"accepted: {', '.join(names)}"
                raise ValueError(f"{group} has no setting {short!r}{nearest(str(short), names)}; {accepted}")
            name = names[short]
            if name in given and given[name] != value:
                raise ValueError(
                    f"{name}={given[name]!r} and {group}={{{short!r}: {value!r}}} are the same setting with two "
                    "values; give one of them"
                )
            result[name] = value
    return result


class SettingsView(Mapping):
    """The settings of one group of a configuration, read and set as attributes; as a mapping, a dict of them."""

    __slots__ = ("_config", "_names")

    def __init__(self, config: Any, names: dict[str, str]):
        object.__setattr__(self, "_config", config)
        object.__setattr__(self, "_names", names)

    def __getattr__(self, short: str) -> Any:
        if short.startswith("_") or short not in self._names:
            known = () if short.startswith("_") else self._names
            raise AttributeError(f"no setting {short!r} here{nearest(short, known)}; there are: {', '.join(known)}")
        return getattr(self._config, self._names[short])

    def __setattr__(self, short: str, value: Any) -> None:
        self.__getattr__(short)
        setattr(self._config, self._names[short], value)

    def __getitem__(self, short: str) -> Any:
        return getattr(self._config, self._names[short])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._names]

    def __repr__(self) -> str:
        return repr(dict(self))

    def __deepcopy__(self, memo: dict) -> dict[str, Any]:
        return dict(self)
