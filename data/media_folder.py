"""The files that annotations name: found in one folder and the folders in it, or missed in words."""

import os
from collections import defaultdict
from pathlib import Path

from ..processing.media_kinds import column_of

NOT_FILES = ("data:", "http://", "https://")  # what the processor reads, by its own rules


class MediaFolder:
    """The media files below a folder, as their paths relative to it with forward slashes.

    Hidden files and folders are left aside. Links to folders are not followed.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)
        if not self.root.is_dir():
            raise NotADirectoryError(f"media={os.fspath(root)!r} is no folder")
        self.files: list[str] = []
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self.used: set[str] = set()
        self._has_looked_around = False
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if column_of(name) is not None and not name.startswith("."):
                    path = Path(folder, name).relative_to(self.root).as_posix()
                    self.files.append(path)
                    self._by_name[name].append(path)
        self._known = set(self.files)

    def find(self, *names: str) -> str:
        """The path in the folder of the first of `names` that exists: relative paths, or bare names of files in
        some folder below.

        Raises LookupError with the reason where none exists, one exists twice, or one leads out of the folder.
        """
        for name in names:
            path = self._inside(name)
            if path in self._known:
                self.used.add(path)
                return path
            same = self._by_name.get(name, [])
            if len(same) > 1:
                raise LookupError(f"{name!r} is in {len(same)} folders ({same[0]}, {same[1]}): name the folder too")
            if same:
                self.used.add(same[0])
                return same[0]
        wanted = " or ".join(repr(name) for name in names)
        raise LookupError(f"there is no file {wanted} in {self.root}{self._elsewhere(*names)}")

    def _elsewhere(self, *names: str) -> str:
        """Where the first file that is missed is, if that is a folder next to this one; told once."""
        if self._has_looked_around:
            return ""
        self._has_looked_around = True
        beside = sorted(path for path in self.root.absolute().parent.iterdir() if path.is_dir())
        found = [path for path in beside if any((path / name).is_file() for name in names)]
        return f", but in {self.root.parent / found[0].name}: give that as media" if found else ""

    def _inside(self, name: str) -> str:
        path = Path(os.path.normpath(self.root / name))
        try:
            return path.relative_to(os.path.normpath(self.root)).as_posix()
        except ValueError:
            raise LookupError(
                f"{name!r} lies outside of {self.root}; give media= (--media), a folder that holds it"
            ) from None

    def unused(self) -> list[str]:
        """The media files that nothing named."""
        return [path for path in self.files if path not in self.used]
