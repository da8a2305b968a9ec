"""The files that a command is given: names, folders, patterns, and lists on stdin."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NoReturn

from ..processing.media_kinds import PICTURES, SOUNDS, VIDEOS, column_of
from .long_work import processes

# What of a folder is read. A file given by name may have any suffix.
_SUFFIXES = {"image": PICTURES, "video": VIDEOS, "audio": SOUNDS}
_WORDS = {"image": "pictures", "video": "videos", "audio": "sounds"}


def kind_of(path: Path) -> str:
    """ "image", "video" or "audio", by the ending of a file's name; any other is taken for a picture."""
    return column_of(path.name) or "image"


def told_media(paths: Iterable[str | Path], kinds: Collection[str], recursive: bool = False) -> list[Path]:
    """`list_media`, with a line on stderr where folders hold media of other kinds."""
    others: Counter[str] = Counter()
    found = list_media(paths, kinds, recursive, others)
    if others and processes()[0] == 0:
        sys.stderr.write(f"mm: {_counted(others)} left out: the model reads {in_words(kinds)}\n")
    return found


def in_words(kinds: Collection[str]) -> str:
    """ "pictures and videos" of ["image", "video"]."""
    return " and ".join(_WORDS[kind] for kind in kinds)


def other_kind(kind: str, kinds: Collection[str]) -> str:
    """Why a medium of one kind is not read by a model of others."""
    return f"it is a {_WORDS[kind][:-1]}, and the model reads {in_words(kinds)}"


def _counted(others: Counter[str]) -> str:
    return " and ".join(f"{count} {_WORDS[kind][: None if count > 1 else -1]}" for kind, count in others.items())


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
    for given in _with_stdin(paths):
        path = Path(given)
        if path.is_dir():
            inside = _inside(path, kinds, recursive, others)
            if not inside:
                suffixes = " ".join(suffix for kind in kinds for suffix in _SUFFIXES[kind])
                but = f", but {_counted(others)}" if others else ""
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


def _with_stdin(paths: Iterable[str | Path]) -> Iterable[str | Path]:
    for path in paths:
        if str(path) != "-":
            yield path
            continue
        text = sys.stdin.read()
        yield from (line for line in text.split("\0" if "\0" in text else "\n") if line.strip())


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
