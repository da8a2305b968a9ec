"""load_data: somebody's files to samples for MMDataCollator, by their format."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..processing.images.limits import check_choice, check_switch
from ..processing.media_kinds import column_of
from .captions import read_coco, read_flickr, read_karpathy, read_msrvtt
from .chats import is_chat, read_chats
from .dataset import MMDataset
from .errors import DataError
from .folders import METADATA, read_folder
from .hub_datasets import MMStream, read_datasets
from .json_files import is_json_lines, json_lines, read_json
from .questions import read_gqa, read_nlvr2, read_vizwiz, read_vqa
from .shards import MMShards
from .tables import read_table

READERS = {
    "coco": read_coco,
    "karpathy": read_karpathy,
    "flickr": read_flickr,
    "msrvtt": read_msrvtt,
    "vqa": read_vqa,
    "vizwiz": read_vizwiz,
    "gqa": read_gqa,
    "nlvr2": read_nlvr2,
    "chats": read_chats,
    "table": read_table,
    "folder": read_folder,
    "webdataset": MMShards,
    "datasets": read_datasets,
}


def load_data(
    source: Any,
    media: str | os.PathLike | None = None,
    *,
    format: str = "auto",
    split: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    on_error: str = "raise",
    group: bool = True,
    **settings: Any,
) -> MMDataset | MMShards | MMStream:
    """Samples for MMDataCollator from published annotation files, tables, folders, shards or data sets.

    Args:
        source: an annotation file, a table, a folder, a pattern of tar shards, or a data set of the `datasets` library
            or its name.
        media: the folder that holds the media; by default that of the annotation file.
        format: "auto" tells it by the content, or one of "coco", "karpathy", "flickr", "msrvtt", "vqa" (VQA v2,
            OK-VQA), "vizwiz", "gqa", "nlvr2", "chats" (LLaVA's conversations), "table" (JSON Lines, JSON, CSV, TSV,
            Parquet), "folder", "webdataset", "datasets".
        split: for formats that hold several.
        columns: for tables, folders with metadata, shards and `datasets`: {"caption": "suffix"}.
        on_error: for rows that make no sample (a missing file, an empty text): "raise" an error that counts and names
            them, or "skip" them with a warning; `dataset.report` lists each.
        group: one sample for each picture with all its texts, so that it is encoded once; False: one for each text.
        settings: of one format: annotations= (vqa), shuffle=, seed=, dots= (webdataset), streaming= and those of
            `datasets.load_dataset`.

    Returns: an MMDataset, or for shards and streaming an IterableDataset of the same samples.
    Raises: DataError (a ValueError) naming the file and the line; FileNotFoundError; ValueError for settings that a
        format does not have.
    """
    check_choice("format", format, ("auto", *READERS))
    check_switch("group", group)
    if columns is not None and not isinstance(columns, Mapping):
        raise TypeError(f'columns is a dict such as {{"caption": "suffix"}}; got {type(columns).__name__}')
    if media is not None and not isinstance(media, (str, os.PathLike)):
        raise TypeError(f"media is the path of a folder; got {type(media).__name__}")
    kind = format_of(source) if format == "auto" else format
    given = {"media": media, "split": split, "columns": columns, "on_error": on_error, "group": group, **settings}
    defaults = {"media": None, "split": None, "columns": None, "group": True}
    if kind in ("webdataset", "datasets"):
        _refuse(kind, given, defaults, ("split", "columns", "group") if kind == "datasets" else ("columns",))
    elif kind not in ("table", "folder"):
        _refuse(kind, given, defaults, ("media", "split", "group"))
        defaults |= {"columns": None}
    left = {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}
    if kind in ("webdataset", "datasets"):
        return READERS[kind](source, **left)
    if not os.path.exists(source):
        raise FileNotFoundError(f"there is no file or folder {os.fspath(source)!r}")
    try:
        return READERS[kind](source, **left)
    except TypeError as fault:
        if "unexpected keyword argument" in str(fault):
            raise ValueError(f"the format {kind!r} has no setting of that name: {fault}") from fault
        raise


def _refuse(kind: str, given: dict, defaults: dict, has: tuple[str, ...]) -> None:
    for name, value in defaults.items():
        if name not in has and given[name] != value:
            raise ValueError(f"{name}={given[name]!r}, which the format {kind!r} does not have")


def format_of(source: Any) -> str:
    """The format of a source, by its content. DataError where it is none that is known."""
    if not isinstance(source, (str, os.PathLike)):
        return "webdataset" if isinstance(source, (list, tuple)) else "datasets"
    path = Path(source)
    if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        return "webdataset"
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return "datasets"
        _check_annotations(path)
        return "folder"
    if not path.exists():
        if isinstance(source, str) and re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source) and not path.suffix:
            return "datasets"
        raise FileNotFoundError(f"there is no file or folder {os.fspath(source)!r}")
    ending = path.suffix.lower()
    if ending == ".json" and not is_json_lines(path):
        return _json_format(read_json(path), path)
    if ending in (".json", ".jsonl", ".ndjson"):  # NLVR2 publishes JSON Lines as .json
        first = next(json_lines(path), (None, {}))[1]
        if is_chat(first):
            return "chats"
        return "nlvr2" if {"identifier", "sentence"} <= first.keys() else "table"
    if ending == ".parquet":
        return "table"
    if ending in (".token", ".txt", ".csv", ".tsv"):
        return _text_format(path)
    raise DataError(f"{path}: the format is not known by its ending; say format=, one of {', '.join(READERS)}")


def _check_annotations(folder: Path) -> None:
    """Raises DataError for a folder with files of annotations: which one is meant, and where its media are, is not
    guessed. A folder with a metadata table, or with texts beside its media, says itself what is learned; a JSON file
    under the name of a medium describes that one."""
    if any((folder / name).is_file() for name in METADATA):
        return
    places = [*folder.iterdir(), *(folder / "annotations").glob("*")]
    media = {path.with_suffix("") for path in places if column_of(path.name) is not None}
    if any(path.with_suffix(".txt").is_file() for path in media):
        return
    endings = (".json", ".jsonl", ".token")
    found = [path for path in places if path.suffix in endings and path.with_suffix("") not in media]
    if found:
        found.sort(key=lambda path: ("caption" not in path.name, path))
        names = ", ".join(path.relative_to(folder).as_posix() for path in found[:5])
        raise DataError(
            f"{folder} holds files of annotations ({names}): give one as the data and the folder of its media, "
            f"for instance data={found[0]} media={folder}; format=folder reads only the media, by their folders"
        )


def _json_format(held: Any, path: Path) -> str:
    if isinstance(held, list):
        first = held[0] if held and isinstance(held[0], dict) else {}
        if is_chat(first):
            return "chats"
        return "vizwiz" if {"image", "question", "answers"} <= first.keys() else "table"
    if isinstance(held, dict):
        if "questions" in held:
            return "vqa"
        if {"videos", "sentences"} <= held.keys():
            return "msrvtt"
        if "images" in held:
            return "coco" if "annotations" in held else "karpathy"
        first = next(iter(held.values()), None)
        if isinstance(first, dict) and "imageId" in first:
            return "gqa"
    raise DataError(f"{path}: the format is not known by its keys; say format=, one of {', '.join(READERS)}")


def _text_format(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
    key, tab, _ = first.partition("\t")
    if tab and "#" in key and key.rpartition("#")[2].strip().isdigit():
        return "flickr"
    names = {name.strip().strip('"').lower() for name in first.replace("|", ",").split(",")}
    is_flickr = {"image_name", "comment"} <= names or {"raw", "filename"} <= names or names == {"image", "caption"}
    return "flickr" if is_flickr else "table"
