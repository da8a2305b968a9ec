"""Recipes of `mm train`: YAML or JSON files of settings, and the words of the command line that replace some.

recipe.yaml  ─┐
              ├─ {"learning_rate": "1e-4", ...} ─ HfArgumentParser ─► RunArguments
key=value    ─┘
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..configuration.settings import nearest
from .arguments import TASKS, DataArguments, MMTrainingArguments, ModelArguments, RunArguments

SHIPPED = Path(__file__).with_name("recipes")
CLASSES = (DataArguments, ModelArguments, MMTrainingArguments)
ALIASES = {"output": "output_dir"}
_ASSIGNED = re.compile(r"([A-Za-z]\w*(?:\.\w+)*)=(.*)", re.S)
_TRUTHS = ("true", "false", "yes", "no", "1", "0", "t", "f", "y", "n")


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))


def parser() -> HfArgumentParser:
    return _Parser(CLASSES, prog="mm train", allow_abbrev=False)  # pyright: ignore[reportArgumentType]: a tuple of classes


def known_keys() -> dict[str, dataclasses.Field]:
    """Every setting by name."""
    return {one.name: one for made in CLASSES for one in dataclasses.fields(made) if one.init}


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def read_recipe(source: str) -> dict[str, Any]:
    """The settings of a recipe: a file, or the name of one that comes with the package."""
    path, names = Path(source), shipped_recipes()
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        if source not in names:
            raise ValueError(
                f"there is no recipe {source!r}{nearest(source, names)}; accepted are a .yaml or .json file and "
                f"{', '.join(names)}"
            )
        path = names[source]
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {str(path)!r}")
    try:
        held = yaml.safe_load(path.read_bytes().decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as fault:
        raise ValueError(f"{path} is no YAML in UTF-8: {' '.join(str(fault).split())}") from fault
    if not isinstance(held, Mapping) or not all(isinstance(name, str) for name in held):
        raise ValueError(f"{path} holds no settings, such as task: caption; got {type(held).__name__}")
    return dict(held)


def read_words(words: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """(recipe, settings) of a command line: RECIPE, key=value, --key value, --key=value and --flag."""
    kinds, recipe, found = _kinds(), None, {}
    left = list(words)
    while left:
        word = left.pop(0)
        assigned = _ASSIGNED.fullmatch(word.removeprefix("--").replace("-", "_", _dashes(word)))
        if assigned and _known(assigned[1], kinds):
            found[_name(assigned[1])] = assigned[2]
        elif word.startswith("--"):
            name = _name(word[2:].replace("-", "_"))
            check_keys([name])
            found[name] = _value(name, kinds.get(name.partition(".")[0]), left)
        elif assigned and not Path(word).exists():
            check_keys([_name(assigned[1])])
        elif recipe is None:
            recipe = word
        else:
            raise ValueError(f"{word!r} is neither a setting (--key value or key=value) nor the recipe, {recipe!r}")
    return recipe, found


def _dashes(word: str) -> int:
    """How many dashes stand in the name of a setting."""
    return word.removeprefix("--").partition("=")[0].count("-") if word.startswith("--") else 0


def _name(key: str) -> str:
    first, dot, rest = key.partition(".")
    return ALIASES.get(first, first) + dot + rest


def _known(key: str, kinds: Mapping[str, str]) -> bool:
    return _name(key).partition(".")[0] in kinds


def _value(name: str, kind: str | None, left: list[str]) -> Any:
    """What follows --name: nothing or a truth for a flag, else one word; for a list all up to the next option."""
    if kind == "flag":
        return left.pop(0) if left and left[0].lower() in _TRUTHS else "true"
    if not left or left[0].startswith("--"):
        raise ValueError(f"--{name} needs a value")
    values = [left.pop(0)]
    while kind == "list" and left and not left[0].startswith("--"):
        values.append(left.pop(0))
    return values[0] if len(values) == 1 else values


def _kinds() -> dict[str, str]:
    """ "flag", "list" or "one" for each setting, as the parser reads it."""
    kinds = {"task": "one"}
    for action in parser()._actions:
        is_flag = action.type is string_to_bool or action.nargs == 0
        kinds[action.dest] = "flag" if is_flag else "list" if action.nargs == "+" else "one"
    return {name: kind for name, kind in kinds.items() if name != "help"}


def check_keys(names: Sequence[str], where: str = "") -> None:
    """Raises ValueError that names what is close, for settings that there are not."""
    known = {**known_keys(), "task": None}
    for name in names:
        first = name.partition(".")[0]
        if first not in known:
            near = nearest(first, [*known, *ALIASES])
            raise ValueError(f"{where}there is no setting {first!r}{near}; mm train --help-all lists all")


def run_arguments(words: Sequence[str]) -> RunArguments:
    """The arguments of a run, from the words of a command line."""
    recipe, given = read_words(words)
    if recipe is None:
        raise ValueError(f"say what to train: one of {', '.join(TASKS)}, or a recipe's file")
    held = {_name(name): value for name, value in read_recipe(recipe).items()}
    check_keys(list(held), f"{recipe}: ")
    return make_arguments(_replaced(held, given), recipe)


def train(recipe: str, *, say: Callable[[str], object] = print, **settings: Any) -> Any:
    """Trains by a recipe, from files to a saved model; `mm train` does the same (docs/training.md).

        result = mm.train("caption", data="captions.json", media="images", output="runs/mine", num_train_epochs=3)

    Args:
        recipe: a task (caption, vqa, retrieval, classify, chat, pretrain, distill), or a YAML or JSON file of
            settings.
        say: is given what the command prints, by lines.
        settings: replace those of the recipe; `config` replaces single fields of its config.

    Returns: a TrainResult: model, processor, metrics, log_history, data_report, output_dir.
    Raises: ValueError, TypeError or OSError for settings and data that do not fit, before anything is trained.
    """
    from .run import train as run  # with Trainer, which reading a recipe does without

    held = {_name(name): value for name, value in read_recipe(recipe).items()}
    check_keys(list(held), f"{recipe}: ")
    given = {_name(name): value for name, value in settings.items()}
    if isinstance(held.get("config"), Mapping) and isinstance(given.get("config"), Mapping):
        given["config"] = {**held["config"], **given["config"]}
    return run(make_arguments({**held, **given}, recipe), say)


def make_arguments(settings: Mapping[str, Any], recipe: str | None = None) -> RunArguments:
    """RunArguments of settings by name, as a recipe holds them. ValueError for unknown names and wrong values."""
    held = {_name(name): value for name, value in settings.items() if value is not None}
    check_keys(list(held))
    task = held.get("task")
    if task is None:
        raise ValueError(f"the recipe does not say its task; accepted are {', '.join(TASKS)}")
    if not held.get("output_dir"):
        raise ValueError("say where the model goes: output (--output FOLDER)")
    data, model, training = parser().parse_args_into_dataclasses(_argv(held), look_for_args_file=False)[:3]
    return RunArguments(str(task), data, model, training, recipe, held)


def _replaced(held: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's settings with those of the command line; a.b=1 replaces one entry of the dict a."""
    made = json.loads(json.dumps(held, default=str))
    for name, value in given.items():
        first, *path = name.split(".")
        if not path:
            made[first] = value
            continue
        if not isinstance(made.get(first) or {}, dict):
            raise ValueError(f"{name}={value}: {first} is no group of settings")
        place = made[first] = made.get(first) or {}
        for key in path[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name}={value}: {key} is no group of settings")
        place[path[-1]] = yaml.safe_load(value) if isinstance(value, str) else value
    return made


def _argv(held: Mapping[str, Any]) -> list[str]:
    """The settings as the parser reads them, so that a recipe's 1e-4 is a number whatever YAML makes of it."""
    kinds, words = _kinds(), []
    for name, value in held.items():
        if name == "task":
            continue
        if isinstance(value, list) and kinds[name] == "list":
            words += [f"--{name}", *map(str, value)]
        else:
            words.append(f"--{name}={_text(value)}")
    return words


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
