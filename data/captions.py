"""Caption annotations as they are published: COCO, Karpathy's splits of them, Flickr30k and 8k, MSR-VTT."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .dataset import MMDataset, Row, build
from .errors import DataError
from .json_files import csv_lines, read_json
from .media_folder import MediaFolder


def read_coco(path, media=None, *, split: str | None = None, on_error="raise", group=True) -> MMDataset:
    """COCO captions: {"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}.

    media: the folder of the pictures, by default that of the file. split: not used by COCO (its splits are files).
    """
    refuse_split(split, "COCO", path)
    held = object_with(read_json(path), path, "images", "annotations")
    names = {field_of(image, "id", path): field_of(image, "file_name", path) for image in held["images"]}
    if len(names) < len(held["images"]):
        raise DataError(f"{path}: {len(held['images'])} images have {len(names)} different ids")
    captioned = {annotation.get("image_id") for annotation in held["annotations"]}
    if held["annotations"] and not any("caption" in annotation for annotation in held["annotations"]):
        keys = ", ".join(sorted(held["annotations"][0]))
        raise DataError(f"{path}: no annotation has a caption (the first has {keys}); take COCO's file of captions")

    def rows() -> Iterator[Row]:
        for number, annotation in enumerate(held["annotations"]):
            where = f"{os.path.basename(path)}, annotation {annotation.get('id', number)}"
            image = annotation.get("image_id")
            fault = "" if image in names else f"image_id {image!r} is not among the images"
            values = {"suffix": annotation.get("caption")}
            yield Row(where, str(annotation.get("id", number)), {"image": names.get(image)}, values, fault=fault)

    bare = [str(name) for image, name in names.items() if image not in captioned]
    return build(
        rows(), source=str(path), format="coco", folder=folder_of(media, path), on_error=on_error, group=group,
        without_rows=bare,
    )  # fmt: skip


KARPATHY_SPLITS = ("train", "restval", "val", "test")


def read_karpathy(path, media=None, *, split: str | None = None, on_error="raise", group=True) -> MMDataset:
    """Karpathy's split file: {"images": [{"filename", "filepath", "split", "sentences": [{"raw", "sentid"}]}]}.

    split: "train", "restval", "val" or "test"; "train+restval" joins two; None takes all.
    """
    held = object_with(read_json(path), path, "images")
    wanted = None if split is None else set(split.split("+"))
    there = {image.get("split") for image in held["images"]}
    if wanted is not None and not wanted <= there:
        raise ValueError(f"split={split!r}; {path} has {sorted(map(str, there))}, joined by + where several are meant")

    def rows() -> Iterator[Row]:
        for number, image in enumerate(held["images"]):
            if wanted is not None and image.get("split") not in wanted:
                continue
            name = str(field_of(image, "filename", path))
            names = (f"{image['filepath']}/{name}", name) if image.get("filepath") else (name,)
            for place, sentence in enumerate(image.get("sentences", [])):
                where = f"{os.path.basename(path)}, image {number} ({name}), sentence {place}"
                key = str(sentence.get("sentid", f"{number}-{place}"))
                yield Row(where, key, {"image": names}, {"suffix": sentence.get("raw")})

    return build(
        rows(), source=str(path), format="karpathy", folder=folder_of(media, path), on_error=on_error, group=group
    )


def read_flickr(path, media=None, *, split: str | None = None, on_error="raise", group=True) -> MMDataset:
    """Flickr30k and Flickr8k captions, in any of their three forms.

    The token file (`name.jpg#0<TAB>caption`), the table `image_name| comment_number| comment` (or `image,caption`),
    and the table with the columns raw (a JSON list of captions), filename and split.
    """
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
    if "#" in first.split("\t")[0]:
        rows = _token_rows(path)
        refuse_split(split, "a Flickr token file", path)
    else:
        rows = _flickr_rows(path, split)
    return build(
        rows, source=str(path), format="flickr", folder=folder_of(media, path), on_error=on_error, group=group
    )


def _token_rows(path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            where = f"{os.path.basename(path)}, line {number}"
            key, tab, caption = line.rstrip("\r\n").partition("\t")
            if not line.strip():
                continue
            name, mark, place = key.rpartition("#")
            if not (tab and mark and place.strip().isdigit()):
                raise DataError(f"{where}: 'name.jpg#number<TAB>caption' is wanted; got {line.strip():.80}")
            yield Row(where, key, {"image": name}, {"suffix": caption})


def _flickr_rows(path, split: str | None) -> Iterator[Row]:
    found = set()
    for where, line in csv_lines(path):
        line = {name.lower(): value for name, value in line.items()}
        name = next((line[column].strip() for column in ("filename", "image_name", "image") if column in line), None)
        if name is None:
            raise DataError(f"{path}: no column filename, image_name or image among {list(line)}")
        found.add(line.get("split"))
        if split is not None and line.get("split") != split:
            continue
        if "raw" in line:
            captions = _captions_in(line["raw"], where)
            ids = _captions_in(line["sentids"], where) if "sentids" in line else range(len(captions))
            for key, caption in zip(ids, captions, strict=True):
                yield Row(where, f"{name}#{key}", {"image": name}, {"suffix": caption})
        else:
            caption = line.get("comment", line.get("caption"))
            key = f"{name}#{line.get('comment_number', where.rpartition(' ')[2]).strip()}"
            yield Row(where, key, {"image": name}, {"suffix": None if caption is None else caption.strip()})
    if split is not None and split not in found:
        raise ValueError(f"split={split!r}; {path} has {sorted(str(one) for one in found)}")


def _captions_in(text: str, where: str) -> list:
    try:
        found = json.loads(text)
    except ValueError as fault:
        raise DataError(f"{where}: a JSON list is wanted in the column; got {text:.80} ({fault})") from fault
    if not isinstance(found, list):
        raise DataError(f"{where}: a JSON list is wanted in the column; got {text:.80}")
    return found


def read_msrvtt(path, media=None, *, split: str | None = None, on_error="raise", group=True) -> MMDataset:
    """MSR-VTT: {"videos": [{"video_id", "split"}], "sentences": [{"video_id", "caption", "sen_id"}]}.

    Videos are files named by their id: video7.mp4 (or .mkv, .webm, .avi). split: "train", "validate", "test" or None.
    """
    held = object_with(read_json(path), path, "videos", "sentences")
    parts = {field_of(video, "video_id", path): video.get("split") for video in held["videos"]}
    if split is not None and split not in parts.values():
        raise ValueError(f"split={split!r}; {path} has {sorted({str(one) for one in parts.values()})}")

    def rows() -> Iterator[Row]:
        for number, sentence in enumerate(held["sentences"]):
            video = sentence.get("video_id")
            if split is not None and parts.get(video) != split:
                continue
            where = f"{os.path.basename(path)}, sentence {sentence.get('sen_id', number)}"
            names = tuple(f"{video}{ending}" for ending in (".mp4", ".mkv", ".webm", ".avi"))
            fault = "" if video in parts else f"video_id {video!r} is not among the videos"
            key = str(sentence.get("sen_id", number))
            yield Row(where, key, {"video": names}, {"suffix": sentence.get("caption")}, fault=fault)

    told = {sentence.get("video_id") for sentence in held["sentences"]}
    bare = [str(video) for video, part in parts.items() if video not in told and split in (None, part)]
    return build(
        rows(), source=str(path), format="msrvtt", folder=folder_of(media, path), on_error=on_error, group=group,
        without_rows=bare,
    )  # fmt: skip


def folder_of(media, path) -> MediaFolder:
    return MediaFolder(Path(path).parent if media is None else media)


def object_with(held: Any, path, *lists: str) -> dict:
    """An object that holds these lists. DataError otherwise."""
    for name in lists:
        if not isinstance(held, dict) or not isinstance(held.get(name), list):
            raise DataError(f"{path}: an object with the lists {lists} is wanted; {name!r} is missing")
        for number, one in enumerate(held[name]):
            if not isinstance(one, dict):
                raise DataError(f"{path}: {name}[{number}] is an object; got {one!r:.60}")
    return held


def field_of(held: dict, name: str, path) -> Any:
    if held.get(name) is None:
        raise DataError(f"{path}: {name!r} is missing from {held!r:.80}")
    return held[name]


def refuse_split(split: str | None, what: str, path) -> None:
    if split is not None:
        raise ValueError(f"split={split!r}, but {what} has no splits inside a file; {path} is read whole")
