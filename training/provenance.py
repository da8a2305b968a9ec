"""Where a model comes from: versions, the commit of MM, the settings of its run."""

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "numpy", "pillow")


def versions() -> dict[str, str]:
    """The versions of MM, Python and what MM runs on, those that are installed; MM's commit in a checkout."""
    found = {"mm-transformers": _version("mm-transformers"), "python": platform.python_version()}
    found |= {name: _version(name) for name in PACKAGES}
    return {name: told for name, told in found.items() if told} | (
        {"mm commit": commit} if (commit := _commit()) else {}
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit of the checkout that MM runs from, with "+changes" where files differ from it; "" for a wheel."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        told = [
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):  # no git, or no right to read it
        return ""
    return told[0] + ("+changes" if told[1] else "")


def settings_of(arguments: Any) -> dict[str, Any]:
    """The settings that were given, by name: a recipe's, or those of TrainingArguments that are no defaults.

    Tokens are left out.
    """
    if arguments is None:
        return {}
    if hasattr(arguments, "settings"):
        given = {"task": arguments.task, **arguments.settings}
    else:
        declared = {one.name: one.default for one in fields(arguments) if one.init}
        given = {
            name: getattr(arguments, name) for name, default in declared.items() if getattr(arguments, name) != default
        }
        given = {name: value for name, value in given.items() if _is_plain(value)}
    told = {name: getattr(value, "value", value) for name, value in given.items()}  # an Enum by its word
    return {name: value for name, value in told.items() if not name.endswith("token") and value is not None}


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) and not (isinstance(value, str) and value.startswith("<"))


def without_places(value: Any) -> Any:
    """A setting as it may be published: of a path on this machine only the last name is published."""
    if isinstance(value, Mapping):
        return {name: without_places(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(one) for one in value]
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    is_path = text.startswith(("/", "~", "..", ".\\", "./")) or os.path.exists(text) or text[1:3] == ":\\"
    return os.path.basename(text.rstrip("/\\")) or "." if text and is_path else value
