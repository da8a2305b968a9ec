"""Recipes whose steps are programs: modules of `mm.recipes`, in a checkout of the repository.

    output: runs/mm-tiny
    programs:
      emoji_captions: {output: "{output}/english", epochs: 12}      python -m mm.recipes.emoji_captions --output ...
      package: ["{output}/six/model", "{output}/mm-tiny"]           the words of its command line

{output} is the folder of the whole recipe. What came to its end is noted there, in DONE, with its words; --resume
leaves it out, and gives its own --resume to a program that has one.
"""

import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..configuration.settings import nearest

PROGRAMS = "programs"
DONE = "programs.json"
ACCEPTED = (PROGRAMS, "output_dir", "resume", "dry_run")
_NAME = re.compile(r"[a-z]\w*")
_OPTION = re.compile(r'add_argument\(\s*"(--[a-z][\w-]*)"')
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


@dataclass
class Program:
    """A module of `mm.recipes` and the words of its command line."""

    name: str
    words: list[str]

    def command(self, resume: bool = False) -> list[str]:
        """The interpreter's words; with --resume where it is asked for and the program has it."""
        own = ["--resume"] if resume and "--resume" in self.options() else []
        return ["-m", f"mm.recipes.{self.name}", *self.words, *own]

    def options(self) -> set[str]:
        """The options that stand in its module."""
        spec = importlib.util.find_spec(f"mm.recipes.{self.name}")
        return set(_OPTION.findall(Path(str(spec and spec.origin)).read_text(encoding="utf-8")))

    def check_options(self) -> None:
        """Raises ValueError for an option that it does not have, before anything runs."""
        known = self.options()
        for word in self.words:
            option = word.split("=")[0]
            if word.startswith("--") and option not in known:
                own = ", ".join(sorted(known - {"--resume"})) or "none"
                raise ValueError(f"programs.{self.name} has no {option}{nearest(option, known)}; accepted are {own}")

    def run(self, resume: bool) -> int:
        """Its exit code, in a process of its own; 128 and the number of the signal that ended it."""
        child = subprocess.Popen([sys.executable, *self.command(resume)])
        ends_it = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate()) if ends_it else None
        try:
            code = child.wait()
        except KeyboardInterrupt:  # the child has heard it too
            child.wait()
            raise
        finally:
            if ends_it:
                signal.signal(signal.SIGTERM, before)
        return code if code >= 0 else 128 - code


@dataclass
class Plan:
    """The programs of a recipe, its folder, and whether what is done is left out or nothing is run."""

    output: Path
    programs: list[Program]
    resume: bool = False
    dry_run: bool = False


def plan(held: Mapping[str, Any]) -> Plan:
    """The plan that a recipe's settings tell, those of the command line among them.

    Raises: ValueError for other settings, for programs that there are not, and for options that are none.
    """
    for name in held:
        if name not in ACCEPTED:
            raise ValueError(
                f"{name}: a recipe of programs has only output, resume, dry_run and {PROGRAMS}"
                f"{nearest(name, ACCEPTED)}; an option of one program is {PROGRAMS}.NAME.{name}=..."
            )
    told = held[PROGRAMS]
    if not isinstance(told, Mapping) or not told:
        raise ValueError(f"programs={told!r:.80}; accepted are names with options: programs: {{tiny: {{epochs: 14}}}}")
    if not held.get("output_dir"):
        raise ValueError("say where it all goes: output (--output FOLDER)")
    output = Path(str(held["output_dir"]))
    if "{output}" in str(output):
        raise ValueError(f"output {str(output)!r} holds {{output}}, which stands for it; accepted is a folder")
    if output.exists() and not output.is_dir():
        raise ValueError(f"output {str(output)!r} is a file; accepted is a folder")
    known = _known()
    made = [Program(_checked(name, known), _words(name, options, output)) for name, options in told.items()]
    for one in made:
        one.check_options()
    return Plan(output, made, _truth("resume", held.get("resume")), _truth("dry_run", held.get("dry_run")))


def run(held: Mapping[str, Any], say: Callable[[str], object] = print) -> int:
    """Runs the programs of a recipe, one after another, each in a process of its own.

    Returns: 0, or the exit code of the first that failed; 128 and the number of the signal that ended it.
    Raises: as `plan`, and ValueError for a folder that holds a run where `resume` is not said.
    """
    made = plan(held)
    if made.dry_run:
        for one in made.programs:
            say(f"python {shlex.join(one.command())}")
        return 0
    file = made.output / DONE
    if file.exists() and not made.resume:
        raise ValueError(f"{made.output} holds a run already: --resume goes on with it, another --output begins anew")
    done = _done(file) if file.exists() else {}
    made.output.mkdir(parents=True, exist_ok=True)
    is_made = True  # up to the first that is not done: what follows is made of what that makes
    for number, one in enumerate(made.programs, 1):
        is_made = is_made and done.get(one.name) == one.words
        say(f"program {number} of {len(made.programs)}: {one.name}{' is done' if is_made else ''}")
        if is_made:
            continue
        file.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        code = one.run(made.resume)
        if code:
            say(f"{one.name} ended with {code}; the same command with --resume goes on with it")
            return code
        done[one.name] = one.words
        file.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    return 0


def _done(file: Path) -> dict[str, list[str]]:
    """The words of the programs that came to their end, by name."""
    try:
        done = json.loads(file.read_bytes())
    except ValueError as fault:
        raise ValueError(f"{file} is no JSON: {fault}; without it all programs run again") from fault
    if not isinstance(done, dict):
        raise ValueError(f"{file} holds no programs by name; without it all programs run again")
    return done


def _known() -> list[str]:
    """The names of the modules of `mm.recipes`. Raises: ValueError where the package has none, as in a wheel."""
    spec = importlib.util.find_spec("mm.recipes")
    folders = [Path(one) for one in (spec.submodule_search_locations or [])] if spec else []
    files = [path for folder in folders for path in folder.glob("*.py")]
    names = sorted(path.stem for path in files if "\ndef main(" in path.read_text(encoding="utf-8"))
    if not names:
        raise ValueError("mm.recipes is not installed: the programs of the shipped models are in the repository only")
    return names


def _checked(name: Any, known: Sequence[str]) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name not in known:
        raise ValueError(f"there is no program {name!r}{nearest(str(name), known)}; accepted are {', '.join(known)}")
    return name


def _words(name: str, options: Any, output: Path) -> list[str]:
    if isinstance(options, list):
        return [_filled(f"programs.{name}", one, output) for one in options]
    if not isinstance(options or {}, Mapping):
        raise ValueError(f"programs.{name}={options!r:.80}; accepted are options, {{epochs: 14}}, or a list of words")
    words = []
    for key, value in (options or {}).items():
        option = f"--{str(key).replace('_', '-')}"
        if option in ("--resume", "--help"):
            raise ValueError(f"programs.{name}.{key}: give --resume to mm train")
        if value is True:
            words.append(option)
        elif value is not False and value is not None:
            words += [option, _filled(f"programs.{name}.{key}", value, output)]
    return words


def _filled(name: str, value: Any, output: Path) -> str:
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{name}={value!r:.80}; accepted are a text, a number, true and false")
    return str(value).replace("{output}", str(output))


def _truth(name: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    if str(value).lower() in _TRUE + _FALSE:
        return str(value).lower() in _TRUE
    raise ValueError(f"{name}={value!r}; accepted are true and false")
