"""Texts that make no row, such as a conversation that is cut where a picture stands: raised, or left out."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .images.limits import MediaDecodeError

logger = logging.getLogger(__name__)


class RowError(ValueError):
    """What one sample says cannot be a row: the fault is the sample's, not that of the settings."""


def sample_title(sample: Mapping[str, Any], sources: Mapping[str, list], name: str) -> str:
    """A sample's id, or `name`, its files and the beginning of its text: others may have the same files."""
    files = [str(source) for held in sources.values() for source in held if isinstance(source, (str, os.PathLike))]
    says = next((f"{sample[column]!r:.160}" for column in ("chat", "text", "suffix") if sample.get(column)), "")
    return f"{sample.get('id', name)} ({', '.join([*files, says])})"


def sound_rows(
    make: Callable[[list[int]], Any],
    kept: list[int],
    names: Sequence[str],
    on_error: str,
    on_fault: Callable[[MediaDecodeError], object] | None,
) -> tuple[list[int], Any]:
    """The samples of `kept` that make rows, and what `make` makes of them.

    Args:
        make: of numbers of samples. names: of all samples. on_error: "skip" leaves out the samples whose rows raise a
            RowError, with a logged warning. on_fault: is then called with each one's.
    Raises: RowError for other on_error; MediaDecodeError where no sample is left.
    """
    try:
        return kept, make(kept)
    except RowError:
        if on_error != "skip":
            raise
    sound = []
    for number in kept:
        try:
            make([number])
            sound.append(number)
        except RowError as error:
            cause = str(error)
            fault = MediaDecodeError(f"sample {names[number]!r}: {cause}", name=names[number], cause=cause)
            logger.warning("left out: %s", fault)
            if on_fault is not None:
                on_fault(fault)
    if not sound:
        raise MediaDecodeError("none of the samples makes a row; the log names each")
    return sound, make(sound)
