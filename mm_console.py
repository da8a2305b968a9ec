"""The `mm` command line: finds the commands and turns errors that mean bad input into words.

The commands are in `cli/commands/`, in groups; their work is done by the functions of `mm.cli`, one file a command.
Here and there only typer is imported, so that `mm --help` answers at once: each command imports `mm` (and with it
torch) when it runs. This is why the files of commands are found by their place, without an import of `mm`.
"""

import functools
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

GROUPS = (
    "inference",
    "asking",
    "drawing",
    "finding",
    "serving",
    "training",
    "measuring",
    "models",
    "machine",
)  # files of cli/commands, as `mm --help` lists them

EXIT_CODES = "Exit codes: 0; 2 for bad input, or where some files could not be read; 130 after Ctrl-C."
OTHER_CODES = {
    "train": "Exit codes: 0; 2 for bad input; 130 after Ctrl-C, 143 after SIGTERM: --resume goes on.",
    "verify": "Exit codes: 0; 2 for a fault, or bad input; 130 after Ctrl-C.",
    "serve": "Exit codes: 0, also after Ctrl-C or SIGTERM; 2 for bad input.",
    "demo": "Exit codes: 0, also after Ctrl-C or SIGTERM; 2 for bad input.",
}  # of commands that end in other ways

app = typer.Typer(
    name="mm",
    help="MM: captions, answers, labels and search for pictures, with multimodal encoder-fusion-decoder models.",
    no_args_is_help=True,
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # slow to import, and --help does without

        typer.echo(f"mm {version('mm-transformers')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that stand before the command."""


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turn the errors that mean bad input into a line on stderr, with a line for each fault where several are listed,
    and exit code 2; the rest keep their traceback."""
    try:
        yield
    # The reader of our output went away (`mm caption … | head -1`): not a fault of the input. Exit carries a code.
    except (BrokenPipeError, typer.Exit):
        raise
    except Exception as error:
        if not isinstance(error, (ValueError, TypeError, OSError)):
            from mm.configuration.hub_files import is_of_the_connection

            if not is_of_the_connection(error):
                raise
            error = OSError(f"the Hub cannot be reached: {error}")
        from mm.cli.printing import BAD_INPUT, printable

        words = re.sub(r"^(images|videos|audio)\[0\]\[0\]: ", "", str(error))  # a single file needs no place
        lines = re.sub(r"\n(?!  (- |\.\.\. ))", " ", words).split("\n")  # faults that are listed keep their lines
        typer.echo("mm: " + "\n".join(printable(line, sys.stderr) for line in lines), err=True)
        raise typer.Exit(BAD_INPUT) from None


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Within, a warning is one line on stderr, above a bar, without the place in the code that gave it."""

    def told(message: Warning | str, *place: Any, **more: Any) -> str:
        from tqdm import tqdm

        from mm.cli.printing import printable

        tqdm.write(f"mm: warning: {printable(message, sys.stderr)}", file=sys.stderr)
        return ""

    before, warnings.formatwarning = warnings.formatwarning, told
    try:
        yield
    finally:
        warnings.formatwarning = before


def _in_words(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def run(**options: Any) -> None:
        from tqdm.contrib.logging import logging_redirect_tqdm

        with (
            _errors_in_words(),
            _warnings_in_a_line(),
            logging_redirect_tqdm(),
        ):  # a warning stands on a line of its own, above a bar
            command(**options)

    return run


def _group(name: str) -> ModuleType:
    """The module mm.cli.commands.NAME, without an import of mm."""
    package = find_spec("mm")
    assert package is not None and package.submodule_search_locations, "mm is installed with this file"
    path = Path(package.submodule_search_locations[0]) / "cli" / "commands" / f"{name}.py"
    spec = spec_from_file_location(f"mm.cli.commands.{name}", path)
    assert spec is not None and spec.loader is not None, path
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


for _name in GROUPS:
    _commands: typer.Typer = _group(_name).app
    for _command in _commands.registered_commands:
        assert _command.callback is not None
        _command.epilog = OTHER_CODES.get(_command.callback.__name__, EXIT_CODES)
        _command.callback = _in_words(_command.callback)
    app.add_typer(_commands)


def main() -> None:
    """The entry point `mm`."""
    app(prog_name="mm")


if __name__ == "__main__":
    sys.exit(main())
