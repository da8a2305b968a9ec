"""plot_explanation: a strip with a panel for each word, over its picture, the frames of its video, or its sound."""

from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from .explanation import Explanation, ItemWeights

HOW = "explanations are drawn with matplotlib: pip install '.[explain]'"
LONGEST = 400  # pixels of a panel's longer side
FRAMES = 6  # of a video that are drawn


def plot_explanation(explanation: Explanation, path: Any = None, *, item: int = 0, columns: int | None = None) -> Any:
    """Draws what each word was read from: warm where much, clear where little.

    Each panel has its own scale, from 0 to the word's greatest place. Of a video each word has a row of frames, evenly
    spaced; of a sound a curve over its length.

    Args:
        path: a file to write, .png, .svg or .pdf by its name; None: only the figure.
        item: which of explanation.items, its pictures, videos and sounds.
        columns: panels in a row; None: up to 6.
    Returns: the matplotlib Figure.
    Raises: ModuleNotFoundError where matplotlib is not installed; ValueError for no words, or no such item.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(HOW, name="matplotlib")
    if not explanation.words:
        raise ValueError("the explanation has no words to draw")
    if not explanation.items:
        raise ValueError(f"method={explanation.method!r} gave no items to draw; read its contributions instead")
    if not 0 <= item < len(explanation.items):
        raise ValueError(f"item={item} must be in 0..{len(explanation.items) - 1}, the items of the explanation")
    of_item = explanation.items[item]
    if of_item.kind == "image":
        figure = _pictures(explanation, of_item, columns)
    elif of_item.kind == "video":
        figure = _frames(explanation, of_item)
    else:
        figure = _moments(explanation, of_item)
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no display is asked for
    return figure


def panel_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) in pixels of the panels that a picture is drawn in."""
    shrink = min(1.0, LONGEST / max(width, height))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def _pictures(explanation: Explanation, item: ItemWeights, columns: int | None) -> Any:
    place = item.place
    assert place is not None
    width, height = panel_size(place.picture_width, place.picture_height)
    number = item.number
    shown = explanation.pictures[number] if number < len(explanation.pictures) else None
    picture = Image.new("RGB", (width, height), "white") if shown is None else shown.resize((width, height))
    maps = item.over_picture((height, width))
    count = len(maps) + (shown is not None)
    columns = min(count, columns or 6)
    rows = -(-count // columns)
    figure = _figure(2.1 * columns, (2.1 * height / width + 0.35) * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axis in axes:
        axis.set_axis_off()
    if shown is not None:
        axes.pop(0).imshow(picture)
    for axis, word, of_word in zip(axes, explanation.words, maps, strict=False):
        _overlay(axis, picture, of_word)
        axis.set_title(_short(word), fontsize=11)
    return figure


def _frames(explanation: Explanation, item: ItemWeights) -> Any:
    count = item.weights.shape[1]
    chosen = np.unique(np.linspace(0, count - 1, min(count, FRAMES)).round().astype(int))
    figure = _figure(0.9 + 1.7 * len(chosen), 1.8 * len(explanation.words))
    axes = figure.subplots(len(explanation.words), len(chosen), squeeze=False)
    for row, (word, of_word) in enumerate(zip(explanation.words, item.weights, strict=True)):
        for axis, frame in zip(axes[row], chosen, strict=True):
            axis.imshow(of_word[frame], cmap="inferno", vmin=0, vmax=max(of_word.max(), 1e-9))
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(f"frame {frame}", fontsize=9)
        axes[row][0].set_ylabel(_short(word), fontsize=11)
    return figure


def _moments(explanation: Explanation, item: ItemWeights) -> Any:
    figure = _figure(8, 0.9 * len(explanation.words) + 0.5)
    axes = figure.subplots(len(explanation.words), 1, sharex=True, squeeze=False)[:, 0]
    for axis, word, of_word in zip(axes, explanation.words, item.weights, strict=True):
        axis.fill_between(np.arange(len(of_word)), of_word, step="mid", linewidth=0)
        axis.set_ylabel(_short(word), rotation=0, ha="right", va="center", fontsize=11)
        axis.set_yticks([])
        axis.margins(x=0)
    axes[-1].set_xlabel("token of the sound")
    return figure


def _overlay(axis: Any, picture: Image.Image, of_word: np.ndarray) -> None:
    """The picture in grey, and a colour that covers it where the map is great."""
    axis.imshow(picture.convert("L"), cmap="gray", vmin=-60, vmax=255)
    strength = of_word / max(of_word.max(), 1e-12)
    axis.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.6 * strength)


def _short(word: str) -> str:
    """As it is drawn: matplotlib reads mathematics between dollar signs."""
    word = word if len(word) <= 18 else f"{word[:17]}…"
    return word.replace("$", r"\$")
