"""A checkpoint's tensors under other names: tables of old name -> new name, strict and readable in both directions.

    table = KeyTable(modules={"h.{n}.ln_1": "layers.{n}.self_attn_norm", ...})
    source tensors ── table.convert ──► tensors of the model, and what it does not read (`unread`)
    model tensors  ── table.restore ──► the source's tensors, bit by bit

A template names a module ({n} is a number) whose weight and bias are meant, or under `tensors` one tensor. Every
tensor of the source is used or dropped for a reason, every tensor of the model is filled or new for a reason; all that
is not so is listed in one error.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from typing import TypeVar

import torch
from huggingface_hub.utils import tqdm

from .files import listed
from .reshapes import SAME, Reshape

_T = TypeVar("_T")
Tensors = Mapping[str, torch.Tensor]

_HOLE = re.compile(r"\{(\w+)\}")
_BATCH_NORM = "weight|bias|running_mean|running_var|num_batches_tracked"
_HOLES = {"n": r"\d+", "leaf": r"weight|bias", "norm": _BATCH_NORM, "rest": r".+"}
LARGEST_LIST = 30  # faults shown in full


# ---- tables --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """Where one entry of a table goes, if not simply to one new name: `old` names that belong to it in addition to its
    key."""

    new: tuple[str, ...]
    reshape: Reshape = SAME
    old: tuple[str, ...] = ()


def change(*new: str, by: Reshape, also: tuple[str, ...] = ()) -> Change:
    """`Change` written in the order in which a table reads."""
    return Change(new, by, also)


@dataclass(frozen=True)
class _Rule:
    old: tuple[str, ...]
    new: tuple[str, ...]
    reshape: Reshape

    def gathers(self) -> bool:
        """Whether many old tensors (of several numbers) become one."""
        return "{n}" in self.old[0] and "{n}" not in self.new[0]


@dataclass
class Converted:
    """Tensors under their new names, and what became of the rest."""

    tensors: dict[str, torch.Tensor]
    unread: dict[str, torch.Tensor] = field(default_factory=dict)  # for the way back, under old names
    dropped: dict[str, str] = field(default_factory=dict)  # old name -> reason
    new: dict[str, str] = field(default_factory=dict)  # name in the model -> reason
    reshaped: dict[str, str] = field(default_factory=dict)  # old name -> what was done


@dataclass(frozen=True)
class KeyTable:
    """Old names -> new names.

    modules, tensors: template -> template, or Change. tied: a copy that some files hold -> the original's template.
    dropped: template -> reason; of the source, not used. kept: as dropped, but handed back by `restore`.
    new: template -> reason; tensors of the model that no source has.
    """

    modules: Mapping[str, str | Change] = field(default_factory=dict)
    tensors: Mapping[str, str | Change] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    new: Mapping[str, str] = field(default_factory=dict)

    def under(self, old: str, new: str) -> "KeyTable":
        """The same table for parts inside a larger checkpoint: prefixes before every name on either side."""

        def moved(entries: Mapping[str, str | Change]) -> dict[str, str | Change]:
            return {old + name: _moved(target, old, new) for name, target in entries.items()}

        return KeyTable(
            modules=moved(self.modules),
            tensors=moved(self.tensors),
            tied={old + copy: old + original for copy, original in self.tied.items()},
            dropped={old + name: reason for name, reason in self.dropped.items()},
            kept={old + name: reason for name, reason in self.kept.items()},
            new={new + name: reason for name, reason in self.new.items()},
        )

    def __add__(self, other: "KeyTable") -> "KeyTable":
        names = ("modules", "tensors", "tied", "dropped", "kept", "new")
        return KeyTable(**{name: {**getattr(self, name), **getattr(other, name)} for name in names})

    def adding(self, **parts: Mapping) -> "KeyTable":
        """This table with more entries in the named parts."""
        return replace(self, **{name: {**getattr(self, name), **more} for name, more in parts.items()})

    def knows(self, name: str) -> bool:
        """Whether an old name is used, tied, kept or dropped by this table."""
        templates = chain(self.tied, self.dropped, self.kept, *(rule.old for rule in self._rules()))
        return any(_pattern(template).fullmatch(name) for template in templates)

    # ---- there -----------------------------------------------------------------------------------------------------

    def convert(self, source: Tensors, wanted: Mapping[str, torch.Size], show_progress: bool = False) -> Converted:
        """The source's tensors under the model's names.

        Args:
            source: old name -> tensor; read one by one, so it may load lazily.
            wanted: new name -> shape of every tensor that the model holds for itself (not those tied to another).
            show_progress: on a terminal's stderr.

        Raises: ValueError that lists every old name without a place, every new name left unfilled, every shape that
            differs, and copies that are no copies.
        """
        result, faults = Converted({}), []
        names = self._untied(source, result, faults)
        groups, homeless = _grouped(self._rules(), names, "old")
        for name in homeless:
            if not self._set_aside(name, source, result):
                faults.append(f"no place for {name}")
        # Those that are read first: what is handed on as it lies in a file keeps what was read of that file in memory.
        groups.sort(key=lambda group: group[0].reshape.is_view)
        for rule, places, found in _shown(groups, show_progress):
            olds = _ordered(rule, found)
            if olds is None:
                faults.append(f"{', '.join(chain(*found))} without the others of {list(rule.old)}")
                continue
            try:
                tensors, unread = rule.reshape.forward([source[names[name]] for name in olds])
            except (ValueError, IndexError, RuntimeError) as error:
                faults.append(f"{', '.join(olds)} cannot be {rule.reshape.name}: {error}")
                continue
            result.unread |= {f"{olds[0]}#{number}": tensor for number, tensor in enumerate(unread)}
            if rule.reshape is not SAME:
                result.reshaped |= dict.fromkeys(olds, rule.reshape.name)
            for template, tensor in zip(rule.new, tensors, strict=True):
                faults += _placed(_filled(template, places), tensor, olds[0], wanted, result.tensors)
        for name in wanted:
            if name not in result.tensors:
                reason = _reason(self.new, name)
                if reason is None:
                    faults.append(f"nothing for {name}")
                else:
                    result.new[name] = reason
        raise_faults("the tensors do not fit", faults)
        return result

    def _untied(self, source: Iterable[str], result: Converted, faults: list[str]) -> dict[str, str]:
        """Name to look up -> name in the source, without copies of tensors that the source has under their own
        name."""
        names = {name: name for name in source}
        for copy, original in self.tied.items():
            pattern = _pattern(copy)
            for name in [name for name in names if pattern.fullmatch(name)]:
                home = _filled(original, pattern.fullmatch(name).groupdict())  # pyright: ignore[reportOptionalMemberAccess]
                if home not in names:
                    names[home] = names.pop(name)
                    continue
                if not _equal(source, name, names[home]):
                    faults.append(f"{name} should equal {home}, to which the model ties it")
                del names[name]
                result.dropped[name] = f"a copy of {home}"
        return names

    def _set_aside(self, name: str, source: Tensors, result: Converted) -> bool:
        reason = _reason(self.dropped, name)
        if reason is None and (reason := _reason(self.kept, name)) is not None:
            result.unread[name] = source[name]
        if reason is not None:
            result.dropped[name] = reason
        return reason is not None

    # ---- and back --------------------------------------------------------------------------------------------------

    def restore(
        self, tensors: Tensors, unread: Tensors | None = None, show_progress: bool = False
    ) -> dict[str, torch.Tensor]:
        """The model's tensors under the source's names; `unread` is what `convert` left over.

        Raises: ValueError that lists every tensor of the model without a place in the source's layout.
        """
        unread = unread or {}
        result = {name: tensor for name, tensor in unread.items() if "#" not in name}
        groups, homeless = _grouped(self._rules(), {name: name for name in tensors}, "new")
        faults = [f"no place for {name}" for name in homeless if _reason(self.new, name) is None]
        groups.sort(key=lambda group: group[0].reshape.is_view)
        for rule, places, found in _shown(groups, show_progress):
            news = _ordered(rule, found)
            if news is None:
                faults.append(f"{', '.join(chain(*found))} without the others of {list(rule.new)}")
                continue
            first = _filled(rule.old[0], {**places, "n": places.get("n", "0")})
            kept = [unread[key] for key in (f"{first}#{number}" for number in range(9)) if key in unread]
            olds = rule.reshape.backward([tensors[name] for name in news], kept)
            if rule.gathers():
                names = [_filled(rule.old[0], {**places, "n": str(number)}) for number in range(len(olds))]
            else:
                names = [_filled(template, places) for template in rule.old]
            result |= dict(zip(names, olds, strict=True))
        raise_faults("the model does not fit this layout", faults)
        return result

    def _rules(self) -> list[_Rule]:
        rules = []
        for entries, ending in ((self.tensors, ""), (self.modules, ".{leaf}")):
            for name, target in entries.items():
                target = target if isinstance(target, Change) else Change((target,))
                old = tuple(template + ending for template in (name, *target.old))
                rules.append(_Rule(old, tuple(template + ending for template in target.new), target.reshape))
        return rules


def _moved(target: str | Change, old: str, new: str) -> str | Change:
    if isinstance(target, str):
        return new + target
    return Change(tuple(new + name for name in target.new), target.reshape, tuple(old + name for name in target.old))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """A template as an expression with a group per hole."""
    parts = _HOLE.split(template)
    for place in range(1, len(parts), 2):
        parts[place] = f"(?P<{parts[place]}>{_HOLES[parts[place]]})"
    return re.compile("".join(re.escape(part) if place % 2 == 0 else part for place, part in enumerate(parts)))


def _filled(template: str, places: Mapping[str, str]) -> str:
    return _HOLE.sub(lambda hole: places[hole[1]], template)


def _reason(entries: Mapping[str, str], name: str) -> str | None:
    return next((reason for template, reason in entries.items() if _pattern(template).fullmatch(name)), None)


def _grouped(rules: list[_Rule], names: Iterable[str], side: str):
    """Names by the rule and the numbers that they share: [(rule, places, names per template)], and homeless names."""
    patterns = [[_pattern(template) for template in getattr(rule, side)] for rule in rules]
    groups: dict[tuple, tuple[_Rule, dict[str, str], list[list[str]]]] = {}
    homeless = []
    for name in names:
        for number, (rule, templates) in enumerate(zip(rules, patterns, strict=True)):
            hit = next(((at, m) for at, p in enumerate(templates) if (m := p.fullmatch(name))), None)
            if hit is None:
                continue
            at, match = hit
            places = {hole: value for hole, value in match.groupdict().items() if not (hole == "n" and rule.gathers())}
            key = (number, *sorted(places.items()))
            groups.setdefault(key, (rule, places, [[] for _ in templates]))[2][at].append(name)
            break
        else:
            homeless.append(name)
    return list(groups.values()), homeless


def _shown(groups: list[_T], show_progress: bool) -> Iterable[_T]:
    """The groups, with a bar where it is wanted, stderr is a terminal, and the Hub's bars are not switched off."""
    return tqdm(groups, desc="tensors", disable=None) if show_progress else groups


def _ordered(rule: _Rule, found: list[list[str]]) -> list[str] | None:
    """The names of one group in the order of the templates (of the numbers); None if one is missing."""
    if rule.gathers() and len(found) == 1:
        return sorted(found[0], key=lambda name: [int(part) if part.isdigit() else 0 for part in name.split(".")])
    return [names[0] for names in found] if all(len(names) == 1 for names in found) else None


def _placed(name: str, tensor: torch.Tensor, old: str, wanted: Mapping[str, torch.Size], into: dict) -> list[str]:
    """Puts a tensor where it belongs, or says why it cannot."""
    if name not in wanted:
        return [f"no place for {old} (it would be {name})"]
    if tuple(tensor.shape) != tuple(wanted[name]):
        return [f"{old} makes {name} {tuple(tensor.shape)}, but the model has {tuple(wanted[name])}"]
    if name in into:
        return [f"two tensors for {name}, one of them {old}"]
    into[name] = tensor
    return []


def _equal(source, name: str, other: str) -> bool:
    one, two = source[name], source[other]
    return one.shape == two.shape and torch.equal(one, two)


def raise_faults(what: str, faults: list[str]) -> None:
    """One ValueError with every fault, if there is any."""
    if faults:
        raise ValueError(f"{what}; {len(faults)} fault(s):{listed(faults, LARGEST_LIST)}")
