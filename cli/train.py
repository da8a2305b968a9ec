"""`mm train`: a recipe, and words that replace its settings.

Several processes: `torchrun --nproc-per-node 2 -m mm.cli.train RECIPE ...`.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..training.checkpoints import newest_complete
from ..training.programs import PROGRAMS
from ..training.programs import run as run_programs
from ..training.recipe import parser, phase_arguments, run_settings, shipped_recipes

STOPPED, ENDED = 130, 143  # the exit codes of a command that Ctrl-C or SIGTERM ended


def list_recipes(say: Callable[[str], object]) -> None:
    """A line for each recipe that comes with the package: its name, what it is for, its file."""
    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        say(f"{name:10}{first}  ({path})")


def list_settings() -> str:
    """Every setting with its default, in the words of argparse."""
    return parser().format_help()


def train(words: Sequence[str], say: Callable[[str], object]) -> int:
    """Trains by a recipe. Returns the exit code: 0; 130 where Ctrl-C ended it, 143 where SIGTERM did."""
    recipe, held, given = run_settings(words)
    if PROGRAMS in held:
        return _programs(held, say)
    phases = phase_arguments(held, given, recipe)
    try:
        from ..training.run import train_phases

        result = train_phases(phases, say)
    except ImportError as fault:  # of an extra, or of what report_to names
        raise ValueError(f"something is not installed: {fault}") from fault
    except KeyboardInterrupt:
        found = next(filter(None, (newest_complete(str(one.training.output_dir)) for one in reversed(phases))), None)
        left = "nothing was saved"
        if found is not None:
            left = f"{found} is complete: the same command with --resume goes on from it"
        say(f"stopped; {left}")
        return STOPPED
    return ENDED if result.is_stopped else 0


def _programs(held: dict[str, Any], say: Callable[[str], object]) -> int:
    try:
        return run_programs(held, say)
    except KeyboardInterrupt:
        say("stopped; the same command with --resume goes on")
        return STOPPED


if __name__ == "__main__":
    sys.exit(train(sys.argv[1:], print))
