"""Which pictures and which texts belong together.

Everything is nested by sample, so that a wrong count is noticed here and not broadcast later:

    images="a.png",          text="q"               -> pictures [[a]],      prompts [[q]]
    images=[a, b],           text="q"               -> pictures [[a, b]],   prompts [[q]]
    images=[a, [b, c], None] text=["q", "r", "s"]   -> pictures [[a], [b, c], []], prompts [[q], [r], [s]]
    images=[a, b],           text=[["q", "r"], ["s"]] -> pictures [[a], [b]], prompts [[q, r], [s]]
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

Nested = list[list]


@dataclass(frozen=True)
class Samples:
    """B samples: the sources of their pictures, their prompts, and the suffix of each prompt. None: there are none."""

    pictures: Nested | None
    prompts: Nested | None
    suffixes: Nested | None

    def keep(self, indices: list[int]) -> "Samples":
        """The samples at `indices`, in that order."""
        return Samples(*(part and [part[i] for i in indices] for part in (self.pictures, self.prompts, self.suffixes)))


def pair_samples(images: Any, text: Any, suffix: Any) -> Samples:
    """Pictures, prompts and suffixes nested by sample, as `MMProcessor.__call__` describes them.

    Raises ValueError where counts do not match or there is nothing to read, TypeError where a text is no string.
    """
    prompts, suffixes = nest_texts("text", text), nest_texts("suffix", suffix)
    if prompts is None and suffixes is not None:
        prompts = [["" for _ in rows] for rows in suffixes]
    if prompts is not None and suffixes is not None:
        _check_counts(prompts, suffixes)
    one = isinstance(suffix if text is None else text, str)
    pictures = nest_pictures(images, None if prompts is None else len(prompts), one)
    if prompts is None and pictures is None:
        raise ValueError("nothing to read: give images, text, or both" if images is None else "no images: all empty")
    return Samples(pictures, prompts, suffixes)


def nest_texts(name: str, texts: Any) -> Nested | None:
    """A string, a list of strings or a list of lists of strings as the rows of each sample; None stays None."""
    if texts is None:
        return None
    if isinstance(texts, str):
        return [[texts]]
    if not isinstance(texts, (list, tuple)):
        _check_string(name, texts)
    if not texts:
        raise ValueError(f"{name} is an empty list; give None for no texts")
    nested = isinstance(texts[0], (list, tuple))
    for index, entry in enumerate(texts):
        if isinstance(entry, (list, tuple)) != nested:
            raise TypeError(f"{name} mixes single texts and lists of texts: {name}[{index}] is {type(entry).__name__}")
        if nested and not entry:
            raise ValueError(f"{name}[{index}] is an empty list: each sample needs a text")
        for row in entry if nested else [entry]:
            _check_string(f"{name}[{index}]", row)
    return [list(entry) if nested else [entry] for entry in texts]


def nest_pictures(images: Any, samples: int | None, one: bool) -> Nested | None:
    """The pictures of each sample, [] for those without; None where no sample has any.

    Args:
        images: as given by the caller.
        samples: number of samples that the texts make; None without texts.
        one: the text is one string, so that a flat list belongs to it as a whole.
    """
    if images is None:
        return None
    entries = list(images) if _is_list(images) else [images]
    if one and not (len(entries) == 1 and _is_list(entries[0])):
        if any(_is_list(entry) for entry in entries):
            raise ValueError(
                f"images nests the pictures of {len(entries)} samples, but text is one string, one sample; "
                f"give a list of {len(entries)} texts"
            )
        entries = [entries]
    if samples is not None and entries and len(entries) != samples:
        raise ValueError(
            f"{_counted(len(entries), 'image')} with {_counted(samples, 'text')}: give an entry for each text (a "
            f"picture, a list of pictures, or None), or nest the texts of one picture: text=[[...]]"
        )
    pictures = [[] if entry is None else list(entry) if _is_list(entry) else [entry] for entry in entries]
    return pictures if any(pictures) else None


def _is_list(images: Any) -> bool:
    """Whether `images` holds pictures rather than being one."""
    return isinstance(images, (list, tuple)) or (isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _check_counts(prompts: Nested, suffixes: Nested) -> None:
    given, asked = [len(rows) for rows in suffixes], [len(rows) for rows in prompts]
    if given != asked:
        raise ValueError(f"suffix is nested like text; got {given} suffixes per sample for {asked} texts")


def _check_string(name: str, row: Any) -> None:
    if row is None:
        raise ValueError(f"{name} is None; give '' for an empty text")
    if not isinstance(row, str):
        swapped = isinstance(row, (Image.Image, np.ndarray, torch.Tensor))
        raise TypeError(f"{name} is no string, got {type(row).__name__}" + "; are images and text swapped?" * swapped)
