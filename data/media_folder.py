"""The files that annotations name: found in one folder and the folders in it, or missed in words."""

import os
from collections import defaultdict
from pathlib import Path

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".dcm", ".dicom")
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".m4a", ".aac", ".opus")
COLUMN_OF = {**dict.fromkeys(PICTURES, "image"), **dict.fromkeys(VIDEOS, "video"), **dict.fromkeys(SOUNDS, "audio")}
NOT_FILES = ("data:", "http://", "https://")  # what the processor reads, by its own rules


def column_of(name: str) -> str | None:
    """ "image", "video" or "audio", by the ending of a file's name; None for other files."""
    return COLUMN_OF.get(os.path.splitext(name)[1].lower())


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
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if column_of(name) is not None and not name.startswith("."):
                    path = Path(folder, name).relative_to(self.root).as_posix()
                    self.files.append(path)
                    self._by_name[name].append(path)
        self._known = set(self.files)

    def find(self, *names: str) -> str:
        """The path in the folder of the first of `names` that is there: relative paths, or bare names of files in
        some folder below.

        Raises LookupError with the reason where none is there, one is there twice, or one leads out of the folder.
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
        raise LookupError(f"there is no file {wanted} in {self.root}")

    def _inside(self, name: str) -> str:
        path = Path(os.path.normpath(self.root / name))
        try:
            return path.relative_to(os.path.normpath(self.root)).as_posix()
        except ValueError:
            raise LookupError(f"{name!r} lies outside of {self.root}; give media=, a folder that holds it") from None

    def unused(self) -> list[str]:
        """The media files that nothing named."""
        return [path for path in self.files if path not in self.used]
