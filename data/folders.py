"""A folder of media: with a table of metadata, a text file beside each medium, or a folder for each class."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from .dataset import MMDataset, Row, build, media_of
from .errors import DataError
from .media_folder import MediaFolder
from .tables import table_lines, table_rows

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def read_folder(
    path, media=None, *, split: str | None = None, columns: Mapping[str, str | None] | None = None, on_error="raise",
    group=True,
) -> MMDataset:  # fmt: skip
    """Pictures, videos or sounds in a folder.

    * metadata.jsonl, .csv or .parquet in it: file_name (or image, video, audio) names the medium of each line;
    * else a text file next to each medium: rocket.jpg and rocket.txt, a caption in each line;
    * else the folders in it are the classes.

    split: a folder inside, by its whole name ("train"). Nothing is guessed from words in names: "eye-test.jpg" is a
    picture like the others. Media that the metadata do not name are in the report as unused.
    """
    root = Path(path if media is None else media)
    if split is not None:
        folders = sorted(one.name for one in root.iterdir() if one.is_dir()) if root.is_dir() else []
        if split not in folders:
            raise ValueError(f"split={split!r}; the folders in {root} are {folders}")
        root = root / split
    folder = MediaFolder(root)
    if not folder.files:
        raise DataError(f"there are no pictures, videos or sounds in {root}")
    tables = [root / name for name in METADATA if (root / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{root} has {tables[0].name} and {tables[1].name}; keep one")
    settings = {"source": str(root), "folder": folder, "on_error": on_error, "group": group}
    if tables:
        rows = table_rows(table_lines(tables[0]), columns, from_text=tables[0].suffix == ".csv", source=str(tables[0]))
        return build(rows, format=f"folder with {tables[0].name}", **settings)
    if columns:
        raise ValueError(f"columns={dict(columns)}, but {root} has no table of metadata ({', '.join(METADATA)})")
    texts = [name for name in folder.files if (root / name).with_suffix(".txt").is_file()]
    if texts:
        bare = [name for name in folder.files if not (root / name).with_suffix(".txt").is_file()]
        return build(_captions(folder, texts), format="folder with texts", without_rows=bare, **settings)
    return build(_classes(folder), format="folder of classes", **settings)


def _captions(folder: MediaFolder, names: list[str]) -> Iterator[Row]:
    for name in names:
        path = (folder.root / name).with_suffix(".txt")
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        lines = [line.strip() for line in lines if line.strip()] or [""]
        for place, line in enumerate(lines):
            key = name if len(lines) == 1 else f"{name}#{place}"
            yield Row(f"{os.path.basename(path)}, line {place + 1}", key, media_of(name), {"suffix": line})


def _classes(folder: MediaFolder) -> Iterator[Row]:
    for name in folder.files:
        parent = os.path.dirname(name)
        if not parent:
            raise DataError(
                f"{folder.root} holds {name!r}, but no metadata table, no {Path(name).with_suffix('.txt').name} and "
                "not in a folder of its class: what is to be learned from it is not said"
            )
        yield Row(name, name, media_of(name), {"label": parent})
