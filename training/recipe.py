"""Recipes of `mm train`: YAML or JSON files of settings, and the words of the command line that replace some.

recipe.yaml  ─┐
              ├─ {"learning_rate": "1e-4", ...} ─ HfArgumentParser ─► RunArguments, one for each phase
key=value    ─┘

A recipe may have phases, runs of which each goes on from the model of the one before:

    phases:
      decoder: {freeze: vision, learning_rate: 1e-3}
      whole: {learning_rate: 1e-4}

Or it has programs, which take no other settings (`programs.py`).
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
from .programs import PROGRAMS
from .programs import run as run_programs

SHIPPED = Path(__file__).with_name("recipes")
CLASSES = (DataArguments, ModelArguments, MMTrainingArguments)
ALIASES = {"output": "output_dir"}
PHASES = "phases"
# Of a recipe as a whole: where the first phase starts. The others start from the phase before.
STARTS = (
    "model",
    "preset",
    "vision_tower",
    "text_tower",
    "audio_tower",
    "text_encoder",
    "processor",
    "new_vocabulary",
)
_PHASE = re.compile(r"[A-Za-z0-9][\w.-]*")
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


class _Twice(ValueError):
    """A name stands twice in one group."""


class _EachOnce(yaml.SafeLoader):
    """Of a name that stands twice in one group YAML keeps the last, and says nothing; here it is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            if key.value in seen:
                raise _Twice(f"{key.value} stands twice, again in line {key.start_mark.line + 1}; accepted is once")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


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
        held = yaml.load(path.read_bytes().decode("utf-8"), _EachOnce)
    except _Twice as fault:
        raise ValueError(f"{path}: {fault}") from fault
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
    kinds = {"task": "one", PHASES: "one", PROGRAMS: "one"}
    for action in parser()._actions:
        is_flag = action.type is string_to_bool or action.nargs == 0
        kinds[action.dest] = "flag" if is_flag else "list" if action.nargs == "+" else "one"
    return {name: kind for name, kind in kinds.items() if name != "help"}


def check_keys(names: Sequence[str], where: str = "") -> None:
    """Raises ValueError that names what is close, for settings that there are not."""
    known = {**known_keys(), "task": None, PHASES: None, PROGRAMS: None}
    for name in names:
        first = name.partition(".")[0]
        if first not in known:
            near = nearest(first, [*known, *ALIASES])
            raise ValueError(f"{where}there is no setting {first!r}{near}; mm train --help-all lists all")


def run_settings(words: Sequence[str]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(recipe, its settings with those of a command line in their place, those of the command line)."""
    recipe, given = read_words(words)
    if recipe is None:
        raise ValueError(f"say what to train: one of {', '.join(TASKS)}, or a recipe's file")
    held = {_name(name): value for name, value in read_recipe(recipe).items()}
    check_keys(list(held), f"{recipe}: ")
    return recipe, _replaced(held, given), given


def run_arguments(words: Sequence[str]) -> list[RunArguments]:
    """The arguments of a run, from the words of a command line; of a recipe with phases those of each."""
    recipe, held, given = run_settings(words)
    return phase_arguments(held, given, recipe)


def phase_arguments(
    held: Mapping[str, Any], given: Mapping[str, Any], recipe: str | None = None
) -> list[RunArguments]:
    """The arguments of each phase, into folders of their names below `output`; of a recipe without phases its own.

    A phase has the recipe's settings, its own in their place, and in place of both those that were given to the run.

    Raises: ValueError for phases that are none, and for unknown names and wrong values in any of them.
    """
    phases = held.get(PHASES)
    if phases is None:
        return [make_arguments(held, recipe)]
    if not isinstance(phases, Mapping) or not phases:
        raise ValueError(
            f"phases={phases!r:.80}; accepted are names with settings: phases: {{first: {{freeze: vision}}}}"
        )
    common = {name: value for name, value in held.items() if name != PHASES}
    output, before, made = common.get("output_dir"), None, []
    if not output:
        raise ValueError("say where the phases go: output (--output FOLDER)")
    for name, own in phases.items():
        if not isinstance(name, str) or not _PHASE.fullmatch(name):
            raise ValueError(f"phases: {name!r} names a folder; letters, digits, '.', '_' and '-' are accepted")
        if not isinstance(own or {}, Mapping):
            raise ValueError(f"phases.{name}={own!r:.80}; accepted are settings, such as {{freeze: vision}}")
        own = {_name(str(key)): value for key, value in (own or {}).items()}
        check_keys(list(own), f"phases.{name}: ")
        if wrong := {"output_dir", PHASES, "resume", "dry_run"} & own.keys():
            raise ValueError(f"phases.{name}: {min(wrong)} is a setting of the whole recipe, not of a phase")
        if before is not None:  # it goes on from the phase before, unless it says otherwise itself
            common = {key: value for key, value in common.items() if key not in STARTS}
            own = own if {"model", "preset", "text_tower"} & own.keys() else {**own, "model": before}
        told = {
            key: value for key, value in given.items() if "." not in key and key not in (*STARTS, "output_dir", PHASES)
        }
        before = str(Path(str(output)) / name)
        made.append(make_arguments({**_merged(common, own), **told, "output_dir": before}, recipe))
    return made


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a phase; single fields of its config replace those of the recipe's."""
    first, second = common.get("config"), own.get("config")
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return {**common, **own, "config": {**first, **second}}
    return {**common, **own}


def train(recipe: str, *, say: Callable[[str], object] = print, **settings: Any) -> Any:
    """Trains by a recipe, from files to a saved model; `mm train` does the same (docs/training.md).

        result = mm.train("caption", data="captions.json", media="images", output="runs/mine", num_train_epochs=3)

    Args:
        recipe: a task (caption, vqa, retrieval, classify, chat, pretrain, distill), or a YAML or JSON file of
            settings.
        say: is given what the command prints, by lines.
        settings: replace those of the recipe; `config` replaces single fields of its config.

    Returns: a TrainResult: model, processor, metrics, log_history, data_report, output_dir; of phases the last's; of a
        recipe of programs None.
    Raises: ValueError, TypeError or OSError for settings and data that do not fit, before anything is trained;
        RuntimeError if a program of a recipe fails.
    """
    held = {_name(name): value for name, value in read_recipe(recipe).items()}
    check_keys(list(held), f"{recipe}: ")
    given = {_name(name): value for name, value in settings.items()}
    if isinstance(held.get("config"), Mapping) and isinstance(given.get("config"), Mapping):
        given["config"] = {**held["config"], **given["config"]}
    if PROGRAMS in held:
        if code := run_programs({**held, **given}, say):
            raise RuntimeError(f"a program of {recipe} ended with {code}")
        return None
    from .run import train_phases  # with Trainer, which reading a recipe does without

    return train_phases(phase_arguments({**held, **given}, given, recipe), say)


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
        place[path[-1]] = yaml.load(value, _EachOnce) if isinstance(value, str) else value
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
