"""The files that a command is given: names, folders, patterns, and lists on stdin."""

import glob
import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from ..processing.media_kinds import PICTURES, SOUNDS, VIDEOS, column_of

# What of a folder is read. A file given by name may have any suffix.
_SUFFIXES = {"image": PICTURES, "video": VIDEOS, "audio": SOUNDS}
_WORDS = {"image": "pictures", "video": "videos", "audio": "sounds"}


def kind_of(path: Path) -> str:
    """ "image", "video" or "audio", by the ending of a file's name; any other is taken for a picture."""
    return column_of(path.name) or "image"


def list_media(
    paths: Iterable[str | Path], kinds: Collection[str] = ("image",), recursive: bool = False
) -> list[Path]:
    """The files in `paths`, in their order: "-" is replaced by the names on stdin, a line each, or parted by NUL; a
    folder by the media directly in it, or in all folders below, sorted by name; a pattern (*, ?, [...], **) that is no
    file itself by the files that it fits.

    Raises:
        FileNotFoundError: a path that is neither a file nor a folder.
        ValueError: a folder without media of these kinds, a pattern that fits none, or no paths.
    """
    found: list[Path] = []
    words = " and ".join(_WORDS[kind] for kind in kinds)
    for given in _with_stdin(paths):
        path = Path(given)
        if path.is_dir():
            inside = _inside(path, kinds, recursive)
            if not inside:
                suffixes = " ".join(suffix for kind in kinds for suffix in _SUFFIXES[kind])
                raise ValueError(f"no {words} in the folder {path}: looked for {suffixes}")
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


def _inside(folder: Path, kinds: Collection[str], recursive: bool) -> list[Path]:
    """Hidden files and folders below are left aside; links to folders are not followed."""
    suffixes = tuple(suffix for kind in kinds for suffix in _SUFFIXES[kind])
    if not recursive:
        return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in suffixes)
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(here, name) for name in sorted(names) if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
    return found
