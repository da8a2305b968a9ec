"""The reference of every field, from what `setting` says of it: into docstrings, and as Markdown."""

import inspect
import textwrap
import typing
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, TypeVar

from .settings import RANGES, Setting, settings_of

_Config = TypeVar("_Config", bound=type)


def documented(cls: _Config) -> _Config:
    """The class with a docstring that ends in all its fields, so that `help(cls)` says what each means."""
    if cls.__doc__ is None:  # python -OO
        return cls
    lines = []
    for group, members in grouped(cls):
        if group:
            names = ", ".join(one.short for one in members)
            lines += ["", *textwrap.wrap(f"{group}={{...}} takes {names}; or each by its own name:", 100), ""]
        for one in members:
            entry = f"{one.name} ({accepted(one)}, default {default(one)}): {one.meaning}. Read by {one.read_by}."
            lines += textwrap.wrap(entry, 100, initial_indent="    ", subsequent_indent="        ")
    cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__), "", "Args:", *lines, ""])
    return cls


def grouped(cls: type) -> Iterator[tuple[str, list[Setting]]]:
    """(group, its settings); first "", those of no group."""
    settings = list(settings_of(cls).values())
    for group in dict.fromkeys(["", *(one.group for one in settings)]):
        yield group, [one for one in settings if one.group == group]


def accepted(one: Setting) -> str:
    """The values that a setting may have: `int > 0 or None`, `"all", "pooled" or "none"`."""
    names = _names(one.type) or ["config", "dict", "None"]
    kinds = [name for name in names if name != "None"]
    kinds = ["number"] if kinds == ["float", "int"] else kinds
    if one.values:
        kinds[-1] += f" {one.values}" if one.values in RANGES else f" ({one.values})"
    *first, final = kinds + (["None"] if "None" in names else [])
    return f"{', '.join(first)} or {final}" if first else final


def _names(kind: Any) -> list[str]:
    """A type in words, one for each alternative; of Any none."""
    if kind is Any:
        return []
    if typing.get_origin(kind) is typing.Literal:
        return [f'"{value}"' for value in typing.get_args(kind)]
    if isinstance(kind, UnionType) or typing.get_origin(kind) is typing.Union:
        return [name for one in typing.get_args(kind) for name in _names(one)]
    if kind is NoneType:
        return ["None"]
    return [kind.__name__ if typing.get_origin(kind) is None else str(kind)]


def default(one: Setting) -> str:
    return f'"{one.default}"' if isinstance(one.default, str) else repr(one.default)


def markdown(cls: type) -> str:
    """The fields of a configuration as a heading and tables."""
    summary = inspect.cleandoc(cls.__doc__ or "").split("\n\nArgs:")[0]
    lines = [f"## {cls.__name__}", "", summary, ""]
    for group, members in grouped(cls):
        if group:
            lines += [f"### {group}", "", f"As `{group}={{...}}` with the names in brackets, or each by its own.", ""]
        lines += ["| field | values | default | meaning | read by |", "|---|---|---|---|---|"]
        for one in members:
            short = f" (`{one.short}`)" if group and one.short != one.name else ""
            cells = [f"`{one.name}`{short}", _code(accepted(one)), _code(default(one)), one.meaning, one.read_by]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _code(words: str) -> str:
    return f"`{words}`"
