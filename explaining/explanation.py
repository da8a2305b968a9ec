"""Explanation: what each word of a row was read from. Numbers only; `plot_explanation` draws them.

W words; H, V height and width of a picture in pixels.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Place(NamedTuple):
    """Where a grid of patches lies in its picture: its first patch begins at (left, top) and each is (width, height),
    in pixels of the picture, which is (picture_width, picture_height)."""

    left: float
    top: float
    width: float
    height: float
    picture_width: int
    picture_height: int


@dataclass
class ItemWeights:
    """How much each word was read from the places of one picture, video or sound.

    kind: "image", "video" or "audio"; number: which of them.
    weights: float32 (W, rows, columns), (W, frames, rows, columns) or (W, moments): the parts of a word's attention
        that fell there, not negative; the rest fell on other items, on CLS and registers, or on text.
    place: of the grid in the picture, or in every frame; None for sounds.
    """

    kind: str
    number: int
    weights: np.ndarray
    place: Place | None = None

    def over_picture(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Maps float32 (W, H, V) over the whole picture, of a video (W, frames, H, V); each adds up to 1.

        Between the middles of patches they are interpolated linearly; 0 where the model saw nothing of the picture. A
        word that read nothing of it has an even map.

        Args:
            size: (H, V), None: the picture's own.
        """
        if self.place is None:
            raise ValueError(f"{self.kind} {self.number} is no picture; read its weights (W, moments) instead")
        place = self.place
        height, width = size or (place.picture_height, place.picture_width)
        down = _interpolation(height, place.picture_height, place.top, place.height, self.weights.shape[-2])
        across = _interpolation(width, place.picture_width, place.left, place.width, self.weights.shape[-1])
        maps = down @ self.weights.astype(np.float64) @ across.T
        total = maps.sum((-2, -1), keepdims=True)
        even = np.full_like(maps, 1 / (height * width))
        return np.where(total > 0, maps / np.where(total > 0, total, 1), even).astype(np.float32)


def _interpolation(size: int, pixels: int, first: float, cell: float, cells: int) -> np.ndarray:
    """(size, cells): how much of each cell each of `size` even parts of a side of `pixels` has."""
    at = ((np.arange(size) + 0.5) * pixels / size - first) / cell  # in cells from the first one's edge
    centre = np.clip(at - 0.5, 0, cells - 1)
    low = np.floor(centre).astype(int)
    high = np.minimum(low + 1, cells - 1)
    found = np.zeros((size, cells))
    found[np.arange(size), low] += 1 - (centre - low)
    found[np.arange(size), high] += centre - low
    return found * ((at >= 0) & (at <= cells))[:, None]


@dataclass
class Explanation:
    """What `model.explain` returns for a row.

    words: the words, W of them; tokens: the columns of each in the row, `token_ids`.
    items: the weights over each picture, video and sound of the row's context.
    shares: {"image", "video", "audio", "text": float32 (W,)}, the part of a word's weights on all tokens of that kind,
        CLS and registers among them; they add up to 1 for attention to a context.
        Of methods that change pictures: the sizes of the contributions, made to add up to 1; text is the question.
    contributions: {kind: float32 (W,)}, of those methods, what the word's number gains by each modality, negative
        where it loses (Shapley values); they add up to number(everything) - number(nothing).
    method, layers, heads: how it was computed.
    """

    words: list[str]
    tokens: list[tuple[int, ...]]
    token_ids: list[int]
    items: list[ItemWeights]
    shares: dict[str, np.ndarray]
    method: str
    layers: list[int] | None = None
    heads: list[int] | None = None
    contributions: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: list[Any] = field(default_factory=list, repr=False)
    """The pictures as PIL images, if they were given."""

    @property
    def picture_size(self) -> tuple[int, int]:
        """(H, V) of the first picture."""
        place = self._first().place
        assert place is not None
        return place.picture_height, place.picture_width

    @property
    def maps(self) -> np.ndarray:
        """float32 (W, H, V), the maps over the first picture, in its own size; each adds up to 1."""
        return self.maps_of()

    def maps_of(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """`maps` of another size (H, V); None: the picture's own."""
        return self._first().over_picture(size)

    def _first(self) -> ItemWeights:
        for item in self.items:
            if item.place is not None:
                return item
        raise ValueError(
            f"method={self.method!r} found no place in a picture; items holds the weights of sounds, if it gives any, "
            "and contributions what each modality adds"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON; without the pictures."""
        return {
            "words": self.words,
            "tokens": [list(columns) for columns in self.tokens],
            "token_ids": self.token_ids,
            "method": self.method,
            "layers": self.layers,
            "heads": self.heads,
            "shares": {kind: share.tolist() for kind, share in self.shares.items()},
            "contributions": {kind: value.tolist() for kind, value in self.contributions.items()},
            "items": [
                {
                    "kind": item.kind,
                    "number": item.number,
                    "weights": item.weights.tolist(),
                    "place": None if item.place is None else item.place._asdict(),
                }
                for item in self.items
            ],
        }
