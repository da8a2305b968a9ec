"""The files that a command is given: names, folders, patterns, and lists on stdin."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from ..processing.media_kinds import SUFFIXES, WORDS, column_of, in_words
from .long_work import processes
from .printing import printable


def told_media(paths: Iterable[str | Path], kinds: Collection[str], recursive: bool = False) -> list[Path]:
    """`list_media`, with a line on stderr where folders hold media of other kinds, and where folders below them that
    are not looked into hold media of these."""
    others: Counter[str] = Counter()
    paths = list(with_stdin(paths))
    found = list_media(paths, kinds, recursive, others)
    if processes()[0] == 0:
        if others:
            sys.stderr.write(f"mm: {_counted(others)} left out: the model reads {in_words(kinds)}\n")
        above = [] if recursive else [path for path in map(Path, paths) if path.is_dir() and has_below(path, kinds)]
        if above:
            more = f" and {len(above) - 1} more" if len(above) > 1 else ""
            told = f"mm: the folders below {above[0]}{more} are left out; --recursive takes them, too"
            sys.stderr.write(f"{printable(told, sys.stderr)}\n")
    return found


def files_and_texts(words: Sequence[str], texts: str) -> tuple[list[str], list[str]]:
    """The files, folders and patterns that stand first in `words`, at least one, and the texts after them.

    After the first one a word is a file where it is "-", ends as a medium's file does, or names, with a "/" in it,
    what is there; any other is a text, so that "cat" is one beside a folder of that name. texts: what they are called.

    Raises: ValueError for a file after a text.
    """
    count = next((number for number, word in enumerate(words) if number and not is_file_word(word)), len(words))
    for word in words[count:]:
        if is_file_word(word):
            raise ValueError(f"{word!r} is a file after the text {words[count]!r}: give files first, then {texts}")
    return list(words[:count]), list(words[count:])


def is_file_word(word: str) -> bool:
    """Whether a word that could be a text is a file, a folder or a pattern; see `files_and_texts`."""
    return column_of(word) is not None or is_many(word) or ("/" in word and os.path.exists(word))


def is_many(word: str) -> bool:
    """Whether a word that could be a text is "-", a folder, named with a "/", or a pattern of files."""
    if word == "-" or ("/" in word and os.path.isdir(word)):
        return True
    is_pattern = glob.has_magic(word) and not os.path.exists(word) and ("/" in word or column_of(word) is not None)
    return is_pattern and bool(glob.glob(word, recursive=True))


def has_below(folder: Path, kinds: Collection[str]) -> bool:
    """Whether folders below a folder hold media of these kinds."""
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = (name for name in names if not name.startswith("."))
        if Path(here) != folder and any(column_of(name) in kinds for name in shown):
            return True
    return False


def _counted(others: Counter[str]) -> str:
    return " and ".join(f"{count} {WORDS[kind][: None if count > 1 else -1]}" for kind, count in others.items())


def list_media(
    paths: Iterable[str | Path], kinds: Collection[str] = ("image",), recursive: bool = False,
    others: Counter[str] | None = None,
) -> list[Path]:  # fmt: skip
    """The files in `paths`, in their order: "-" is replaced by the names on stdin, a line each, or parted by NUL; a
    folder by the media directly in it, or in all folders below, sorted by name; a pattern (*, ?, [...], **) that is no
    file itself by the files that it fits.

    Args:
        others: counts the media of other kinds in the folders, which are left out.

    Raises:
        FileNotFoundError: a path that is neither a file nor a folder.
        OSError: a folder that may not be read, also one of those below.
        ValueError: a folder without media of these kinds, a pattern that fits none, or no paths.
    """
    found: list[Path] = []
    words = in_words(kinds)
    others = Counter() if others is None else others
    for given in with_stdin(paths):
        path = Path(given)
        if path.is_dir():
            inside = _inside(path, kinds, recursive, others)
            if not inside:
                suffixes = " ".join(suffix for kind in kinds for suffix in SUFFIXES[kind])
                but = f", but {_counted(others)}" if others else ""
                if not recursive and has_below(path, kinds):
                    but += ", and some in folders below it, which --recursive takes"
                raise ValueError(f"no {words} in the folder {path}{but}: looked for {suffixes}")
            found.extend(inside)
        elif path.exists():
            found.append(path)
        elif glob.has_magic(str(given)):
            fits = sorted(Path(name) for name in glob.glob(str(given), recursive=True) if os.path.isfile(name))
            if not fits:
                raise ValueError(f"no file fits the pattern {str(given)!r}")
            found.extend(fits)
        else:
            raise FileNotFoundError(f"no file or folder {str(path)!r}")
    if not found:
        raise ValueError(f"no {words} given")
    return found


def with_stdin(paths: Iterable[str | Path]) -> Iterator[str | Path]:
    """The paths (or texts); in the place of "-" the lines on stdin, or what NUL parts there."""
    for path in paths:
        if str(path) != "-":
            yield path
            continue
        text = sys.stdin.read()
        parts = text.split("\0") if "\0" in text else [line.removesuffix("\r") for line in text.split("\n")]
        yield from (part for part in parts if part.strip())


def _inside(folder: Path, kinds: Collection[str], recursive: bool, others: Counter[str]) -> list[Path]:
    """Hidden files and folders are left aside; links to folders are not followed."""
    found = []
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in sorted(names):
            kind = None if name.startswith(".") else column_of(name)
            if kind in kinds:
                found.append(Path(here, name))
            elif kind is not None:
                others[kind] += 1
    return found


def _unreadable(error: OSError) -> NoReturn:
    """os.walk goes past folders that it may not read."""
    raise OSError(f"the folder {error.filename} cannot be read: {error.strerror}") from None
