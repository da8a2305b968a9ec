"""`mm convert`: a published checkpoint to an MM model, or back; one line of the report a step."""

from collections.abc import Callable

from ..conversion_scripts.engine import run
from .long_work import check_new


def convert(
    source: str,
    out: str | None,
    *,
    to: str | None = None,
    dry_run: bool = False,
    compare: bool = False,
    vision: str | None = None,
    text: str | None = None,
    say: Callable[[str], None],
) -> None:
    """Convert `source` into the directory `out`, new or empty, and say what was done.

    Args:
        source: a directory or Hub id in a published layout, or a .pth file of an original; with `to` an MM directory.
        to: name of a family, to write back in its layout.
        dry_run: print what would be done, and write nothing.
        compare: run both models on the same inputs, and print the largest difference of their outputs.
        vision, text: the towers that a file of OpenFlamingo goes with.

    Raises: ValueError, FileNotFoundError: as `mm.conversion_scripts.engine.run`.
    """
    if not dry_run:
        check_new(out, "OUT")
    for line in run(source, out, to, dry_run, compare, vision, text):
        say(line)
