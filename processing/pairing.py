"""Which pictures, videos, sounds and texts belong together.

Everything is nested by sample, so that a wrong count is noticed here and not broadcast later:

    images="a.png",          text="q"               -> pictures [[a]],      prompts [[q]]
    images=[a, b],           text="q"               -> pictures [[a, b]],   prompts [[q]]
    images=[a, [b, c], None] text=["q", "r", "s"]   -> pictures [[a], [b, c], []], prompts [[q], [r], [s]]
    images=[a, b],           text=[["q", "r"], ["s"]] -> pictures [[a], [b]], prompts [[q, r], [s]]

A context text is between the two: texts are then nested like it, and a list in place of a string makes
several rows of that context.

    images=[a, b], context_text=[["q", "r"], ["s"]], suffix=[["x", "y"], ["z"]]
    context_text=["q", "r"], suffix=[["x", "y"], ["z"]] -> prompts [["", ""], [""]], owners [[0, 0], [0]]
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image

from .drawn_pictures import PictureIds
from .images.load import is_frames

Nested = list[list]

# A list of 32 frames is one video; an array of four dimensions is several pictures, or one video.
Holds = Callable[[Any], bool]


@dataclass(frozen=True)
class Samples:
    """B samples: the sources of their media, their context texts, their prompts, and the suffix of each prompt.

    media: by the name of the argument ("images", "videos", "audio"), only those that some sample has.
    contexts, prompts, suffixes: None if no sample has any; a prompt that is None is absent. owners: for each prompt,
    the number of the context text within its sample that it goes with; 0 throughout without context texts.
    """

    media: dict[str, Nested]
    contexts: Nested | None = None
    prompts: Nested | None = None
    suffixes: Nested | None = None
    owners: Nested = field(default_factory=list)

    def keep(self, indices: list[int]) -> "Samples":
        """The samples at `indices`, in that order."""
        media = {name: [entries[i] for i in indices] for name, entries in self.media.items()}
        texts = {name: getattr(self, name) for name in ("contexts", "prompts", "suffixes", "owners")}
        return replace(
            self, media=media, **{name: part and [part[i] for i in indices] for name, part in texts.items()}
        )

    def media_index(self) -> list[int]:
        """The sample of each context text."""
        return [sample for sample, texts in enumerate(self.contexts or []) for _ in texts]

    def context_index(self) -> list[int]:
        """The context of each row: its sample, or its context text where there are any."""
        if self.contexts is None:
            return [sample for sample, rows in enumerate(self.prompts or []) for _ in rows]
        starts = np.cumsum([0, *map(len, self.contexts)])
        return [int(start) + owner for start, owners in zip(starts[:-1], self.owners, strict=True) for owner in owners]

    def indices(self) -> dict[str, list[int]]:
        """context_index and media_index, where they are not 0..B-1."""
        held, found = len(next(iter(self.media.values()), [])), {}
        if self.contexts is not None and held:
            found["media_index"] = (self.media_index(), held)
        contexts = held if self.contexts is None else sum(map(len, self.contexts))
        if self.prompts is not None and contexts:
            found["context_index"] = (self.context_index(), contexts)
        return {name: index for name, (index, count) in found.items() if index != list(range(count))}


def pair_samples(media: dict[str, Any], text: Any, suffix: Any, context_text: Any = None) -> Samples:
    """Media, context texts, prompts and suffixes nested by sample, as `MMProcessor.__call__` describes them.

    Args:
        media: the arguments images, videos and audio, by name.

    Raises ValueError where counts do not match or there is nothing to read, TypeError where a text is no string.
    """
    contexts = nest_texts("context_text", context_text)
    if contexts is None:
        prompts, suffixes = nest_texts("text", text, may_lack=True), nest_texts("suffix", suffix)
        if prompts is not None and suffixes is None and all(row is None for rows in prompts for row in rows):
            prompts = None
        owners = [[0] * len(rows) for rows in prompts or suffixes or []]
    else:
        prompts, owners = _nest_under(context_text, "text", text)
        suffixes, suffix_owners = _nest_under(context_text, "suffix", suffix)
        if prompts is None and suffixes is None:
            owners = [list(range(len(texts))) for texts in contexts]
            prompts = [[""] * len(texts) for texts in contexts]
        owners = owners or suffix_owners
    if prompts is None and suffixes is not None:
        prompts = [["" for _ in rows] for rows in suffixes]
    if prompts is not None and suffixes is not None:
        _check_counts(prompts, suffixes)
    leading = next((given for given in (context_text, text, suffix) if given is not None), None)
    nested = {
        name: nest_media(name, given, None if prompts is None else len(prompts), isinstance(leading, str))
        for name, given in media.items()
    }
    found = {name: entries for name, entries in nested.items() if entries is not None}
    _check_samples(media, found, prompts)
    return Samples(found, contexts, prompts, suffixes, owners)


def nest_texts(name: str, texts: Any, may_lack: bool = False) -> Nested | None:
    """A string, a list of strings or a list of lists of strings as the rows of each sample; None stays None.

    may_lack: some of them may be None, too.
    """
    if texts is None:
        return None
    if isinstance(texts, (str, PictureIds)):
        return [[texts]]
    if not isinstance(texts, (list, tuple)):
        _check_string(name, texts)
    if not texts:
        raise ValueError(f"{name} is an empty list; give None for no texts")
    nested = isinstance(next((entry for entry in texts if entry is not None), None), (list, tuple))
    if nested and may_lack:
        texts = [[None] if entry is None else entry for entry in texts]
    for index, entry in enumerate(texts):
        if isinstance(entry, (list, tuple)) != nested:
            raise TypeError(f"{name} mixes single texts and lists of texts: {name}[{index}] is {type(entry).__name__}")
        if nested and not entry:
            raise ValueError(f"{name}[{index}] is an empty list: each sample needs a text")
        for row in entry if nested else [entry]:
            if not (may_lack and row is None):
                _check_string(f"{name}[{index}]", row)
    return [list(entry) if nested else [entry] for entry in texts]


def nest_media(name: str, given: Any, samples: int | None, one: bool) -> Nested | None:
    """The pictures (videos, sounds) of each sample, [] for those without; None where no sample has any.

    Args:
        name: "images", "videos" or "audio". given: as given by the caller under that name.
        samples: number of samples that the texts make; None without texts.
        one: the text is one string, so that a flat list belongs to it as a whole.
    """
    if given is None:
        return None
    holds, noun = HOLDS[name], NOUNS[name]
    entries = list(given) if holds(given) else [given]
    if one and not (len(entries) == 1 and holds(entries[0])):
        if any(holds(entry) for entry in entries):
            raise ValueError(
                f"{name} nests the {noun}s of {len(entries)} samples, but text is one string, one sample; "
                f"give a list of {len(entries)} texts"
            )
        return [entries] if entries else None
    if samples is not None and entries and len(entries) != samples:
        raise ValueError(
            f"{_counted(len(entries), noun)} with {_counted(samples, 'text')}: give an entry for each text (one "
            f"{noun}, a list of {noun}s, or None), or nest the texts of one {noun}: text=[[...]]"
        )
    nested = [[] if entry is None else list(entry) if holds(entry) else [entry] for entry in entries]
    return nested if any(nested) else None


def _holds_images(images: Any) -> bool:
    """Whether `images` holds pictures rather than being one."""
    return isinstance(images, (list, tuple)) or (isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4)


def _holds_videos(videos: Any) -> bool:
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return videos.ndim == 5
    return isinstance(videos, (list, tuple)) and not is_frames(videos)


def _holds_sounds(sounds: Any) -> bool:
    return isinstance(sounds, (list, tuple))


HOLDS: dict[str, Holds] = {"images": _holds_images, "videos": _holds_videos, "audio": _holds_sounds}
NOUNS = {"images": "image", "videos": "video", "audio": "sound"}


def _nest_under(context_text: Any, name: str, texts: Any) -> tuple[Nested | None, Nested]:
    """Texts nested like `context_text` as the rows of each sample, and the context text that each row goes with."""
    if texts is None:
        return None, []
    leaves, shape = texts, context_text
    if isinstance(context_text, str):
        leaves, shape = [[texts]], [[context_text]]
    elif not isinstance(context_text[0], (list, tuple)):
        leaves = [[leaf] for leaf in texts] if isinstance(texts, (list, tuple)) else texts
        shape = [[text] for text in context_text]
    wanted = [len(entry) for entry in shape]
    fits = isinstance(leaves, (list, tuple)) and all(isinstance(entry, (list, tuple)) for entry in leaves)
    if not fits or [len(entry) for entry in leaves] != wanted:
        given = [len(entry) for entry in leaves] if fits else type(texts).__name__
        raise ValueError(
            f"{name} is nested like context_text, with {wanted} texts per sample; got {given}. A list in the place "
            f"of one text makes several rows of its context"
        )
    rows = iter([row for leaf in chain(*leaves) for row in nest_texts(name, [leaf]) or []])
    prompts, owners = [], []
    for entry in shape:
        mine = [next(rows) for _ in entry]
        prompts.append(list(chain(*mine)))
        owners.append([number for number, leaf in enumerate(mine) for _ in leaf])
    return prompts, owners


def _check_samples(media: dict[str, Any], found: dict[str, Nested], prompts: Nested | None) -> None:
    """Raises ValueError where nothing is left to read, or the modalities come for different numbers of samples."""
    if prompts is None and not found:
        if all(given is None for given in media.values()):
            raise ValueError("nothing to read: give images, text, or both")
        raise ValueError(f"no {', '.join(name for name, given in media.items() if given is not None)}: all empty")
    if len({len(entries) for entries in found.values()}) > 1:
        given = " and ".join(_counted(len(entries), NOUNS[name]) for name, entries in found.items())
        raise ValueError(f"{given}: the modalities of a call come for the same samples, None or [] where one has none")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _check_counts(prompts: Nested, suffixes: Nested) -> None:
    given, asked = [len(rows) for rows in suffixes], [len(rows) for rows in prompts]
    if given != asked:
        raise ValueError(f"suffix is nested like text; got {given} suffixes per sample for {asked} texts")


def _check_string(name: str, row: Any) -> None:
    if row is None:
        raise ValueError(f"{name} is None; give '' for an empty text")
    if not isinstance(row, (str, PictureIds)):
        swapped = isinstance(row, (Image.Image, np.ndarray, torch.Tensor))
        raise TypeError(f"{name} is no string, got {type(row).__name__}" + "; are images and text swapped?" * swapped)
