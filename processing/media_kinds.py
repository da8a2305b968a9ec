"""What a file holds, by the ending of its name, and what an item to encode holds, by what it is."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from .images.limits import FORMATS

# The formats that Pillow reads here, and DICOM.
PICTURES = (*sorted(suffix for suffix, name in Image.EXTENSION.items() if name in FORMATS), ".dcm", ".dicom")
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".m4a", ".aac", ".opus")
SUFFIXES = {"image": PICTURES, "video": VIDEOS, "audio": SOUNDS}
WORDS = {"image": "pictures", "video": "videos", "audio": "sounds"}
COLUMN_OF = {**dict.fromkeys(PICTURES, "image"), **dict.fromkeys(VIDEOS, "video"), **dict.fromkeys(SOUNDS, "audio")}
# Keys of an item, by the arguments of MMProcessor.
ARGUMENT_OF = {"image": "images", "images": "images", "video": "videos", "videos": "videos", "audio": "audio"}
_LINK = re.compile(r"\s*([a-z][a-z0-9+.-]*://|data:)", re.ASCII | re.IGNORECASE)
_FILE = re.compile(r"\S*[^\s.]\.[a-z][a-z0-9]{1,4}\s*", re.ASCII | re.IGNORECASE)  # one word with an ending
SAY = 'say {"text": ...} or {"image": ...} ("video", "audio")'


class Encodable(NamedTuple):
    """One item to encode: its media by the arguments of MMProcessor, a list each, and its text."""

    media: dict[str, list]
    text: str | None


def column_of(name: str) -> str | None:
    """ "image", "video" or "audio", by the ending of a file's name; None for other files."""
    return COLUMN_OF.get(os.path.splitext(name)[1].lower())


def kind_of(path: Path) -> str:
    """ "image", "video" or "audio", by the ending of a file's name; any other is taken for a picture."""
    return column_of(path.name) or "image"


def in_words(kinds: Collection[str]) -> str:
    """ "pictures and videos" of ["image", "video"]."""
    return " and ".join(WORDS[kind] for kind in kinds)


def other_kind(kind: str, kinds: Collection[str]) -> str:
    """Why a medium of one kind is not read by a model of others."""
    return f"it is a {WORDS[kind][:-1]}, and the model reads {in_words(kinds)}"


def encodable(item: Any) -> Encodable:
    """What an item holds. A string is never guessed: one that ends as a medium's file does must be the path of a
    file, and so must one word with any other ending (cat.heic); any other is a text, unless there is a file of that
    very name.

    * Path: a file, by its ending. PIL image, array (H, W), (H, W, C) or (C, H, W): a picture. Array (n,), or a dict
      with "array" and "sampling_rate": a sound.
    * dict: "image", "video", "audio" (one, or a list of them) and "text".

    Raises: ValueError or TypeError for what is none of these, or could be two.
    """
    if isinstance(item, str):
        return _of_string(item)
    if isinstance(item, os.PathLike):
        return _of_file(Path(item))
    if isinstance(item, Image.Image):
        return Encodable({"images": [item]}, None)
    if isinstance(item, (np.ndarray, torch.Tensor)):
        if item.ndim not in (1, 2, 3):
            raise ValueError(f"an array of shape {tuple(item.shape)} is neither one picture nor one sound; {SAY}")
        return Encodable({"audio" if item.ndim == 1 else "images": [item]}, None)
    if isinstance(item, Mapping):
        return Encodable({"audio": [item]}, None) if "array" in item else _of_dict(item)
    raise TypeError(f"an item is a string, a path, a picture, an array or a dict; got {type(item).__name__}; {SAY}")


def _of_string(item: str) -> Encodable:
    if not item.strip():
        raise ValueError(f"an empty string is neither a text nor a file; {SAY}")
    if _LINK.match(item):
        raise ValueError(f"{item!r:.80} is a link and could be meant as text; {SAY}")
    is_file = os.path.isfile(item)
    if column_of(item.strip()) is None and not _FILE.fullmatch(item):
        if is_file:
            raise ValueError(f"{item!r:.80} is a text, and there is a file of that name; {SAY}")
        return Encodable({}, item)
    if not is_file:
        raise ValueError(f"{item!r:.80} ends as a file does, and there is no such file; {SAY}")
    return _of_file(Path(item))


def _of_file(path: Path) -> Encodable:
    kind = column_of(path.name)
    if kind is None:
        raise ValueError(f"the ending of {str(path)!r:.80} names no picture, video or sound; {SAY}")
    return Encodable({ARGUMENT_OF[kind]: [path]}, None)


def _of_dict(item: Mapping[str, Any]) -> Encodable:
    media: dict[str, list] = {}
    for name, value in item.items():
        if name == "text" or value is None:
            continue
        if name not in ARGUMENT_OF or ARGUMENT_OF[name] in media:
            raise ValueError(f"a dict has text, image, video and audio, each once; got {sorted(map(str, item))}")
        several = list(value) if isinstance(value, (list, tuple)) else [value]
        if not several:
            raise ValueError(f"{name!r} is an empty list; leave it out where there is none")
        media[ARGUMENT_OF[name]] = several
    text = item.get("text")
    if text is not None and not isinstance(text, str):
        raise TypeError(f'"text" is a string; got {type(text).__name__}')
    if not media and text is None:
        raise ValueError(f"an item holds nothing: its keys are {sorted(map(str, item))}")
    return Encodable(media, text)
