"""Baselines that a captioner of emoji must beat: copy the name of the most similar training picture.

    python benchmarks/emoji_baselines.py            # Twemoji, the development style
    python benchmarks/emoji_baselines.py --test     # OpenMoji, the test style: once per release

Pictures of SEEN names in a style that was never trained on are described by plain features (pixels or histograms of
oriented gradients), and the label of the nearest of the 6476 training pictures is the caption. For retrieval a label
scores as its nearest training picture does, so labels without training pictures, 293 of the 1594 candidates, are
never found. R@k is the share of queries with fewer than k strictly better candidates.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from mm.evaluation.captions import bootstrap_interval, chrf, exact_match
from mm.recipes.emoji import DEV_VENDOR, TEST_VENDOR, TRAIN_VENDORS, EmojiItem, load_items, pictures, split_of

SIZE = 64  # pixels of the pictures that every baseline sees
CELLS = 8  # cells of the gradient histograms along each side
BINS = 9  # unsigned orientations, 20 degrees each
CLIP = 0.2  # of a block's entries after its first normalisation


def pixel_features(images: np.ndarray) -> np.ndarray:
    """uint8 (n, 64, 64, 3) -> float32 (n, 192): the mean colour of each field of an 8 x 8 grid."""
    field = SIZE // 8
    fields = images.reshape(len(images), 8, field, 8, field, 3).mean(axis=(2, 4), dtype=np.float32)
    return fields.reshape(len(images), -1) / 255


def hog_features(images: np.ndarray, soft: bool = False) -> np.ndarray:
    """uint8 (n, 64, 64, 3) -> float32 (n, 7 * 7 * 4 * 9): histograms of oriented gradients of the grey picture.

    Cells of 8 x 8 pixels, 9 orientations without sign, overlapping blocks of 2 x 2 cells, each block divided by its
    L2 norm, clipped at 0.2 and divided again. `soft` shares each gradient between its two nearest orientations.
    """
    grey = images @ np.array([0.299, 0.587, 0.114], np.float32) / 255  # (n, 64, 64)
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    strength = np.hypot(across, down)
    orientation = np.arctan2(down, across) % np.pi / np.pi * BINS  # 0..BINS, the middle of bin b is b + 0.5

    pixels = SIZE // CELLS
    cells = np.empty((len(images), CELLS, CELLS, BINS), np.float32)
    for index in range(BINS):
        distance = np.abs((orientation - index - 0.5 + BINS / 2) % BINS - BINS / 2)
        share = np.maximum(1 - distance, 0) if soft else np.floor(orientation) % BINS == index
        in_cells = (strength * share).reshape(-1, CELLS, pixels, CELLS, pixels)
        cells[..., index] = in_cells.sum(axis=(2, 4))

    corners = (cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:])
    blocks = np.concatenate(corners, axis=-1)  # (n, 7, 7, 4 * BINS)
    blocks = np.minimum(_unit_length(blocks), CLIP)
    return _unit_length(blocks).reshape(len(images), -1)


def soft_hog_features(images: np.ndarray) -> np.ndarray:
    return hog_features(images, soft=True)


def _unit_length(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True) + 1e-10)


METHODS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray], bool], ...] = (
    ("pixels 8x8", pixel_features, False),
    ("pixels 8x8 + crop", pixel_features, True),
    ("HOG", hog_features, False),
    ("HOG + crop", hog_features, True),
    ("HOG, soft bins, + crop", soft_hog_features, True),
)


def label_scores(queries: np.ndarray, known: np.ndarray, known_labels: np.ndarray, num_labels: int) -> np.ndarray:
    """float32 (queries, num_labels): minus the squared distance to the nearest known picture of each label.

    queries (q, d) and known (n, d) are features, known_labels (n,) the label index of each known picture. A label
    without known pictures scores minus infinity.
    """
    closeness = 2 * queries @ known.T - (known**2).sum(axis=1) - (queries**2).sum(axis=1, keepdims=True)
    scores = np.full((num_labels, len(queries)), -np.inf, np.float32)
    np.maximum.at(scores, known_labels, closeness.T)
    return scores.T


def recall_at(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Share of the rows of `scores` (queries, candidates) where fewer than k candidates beat the true one."""
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    return float(((scores > own).sum(axis=1) < k).mean())


def measure(
    method: Callable[[np.ndarray], np.ndarray],
    crop: bool,
    known: list[EmojiItem],
    queries: list[EmojiItem],
    data_dir: str | None,
) -> tuple[dict[str, float], np.ndarray]:
    """The metrics of one baseline, and which of its captions were right: float64 (queries,), 1.0 or 0.0."""
    names = {item.concept: item.label for item in load_items([DEV_VENDOR], data_dir)}  # all 1594, the gallery
    index = {concept: place for place, concept in enumerate(names)}
    features = method(pictures(queries, SIZE, crop, data_dir))
    known_features = method(pictures(known, SIZE, crop, data_dir))
    scores = label_scores(features, known_features, np.array([index[item.concept] for item in known]), len(names))
    truth = np.array([index[item.concept] for item in queries])

    labels = list(names.values())
    captions = [labels[place] for place in scores.argmax(axis=1)]
    references = [item.label for item in queries]
    right = exact_match(captions, references).per_item
    low, high = bootstrap_interval(right)
    by_text = scores[:, truth].T  # (labels of the queries, queries)
    places = np.arange(len(queries))
    metrics = {"EM": float(right.mean()), "low": low, "high": high, "R@5": recall_at(scores, truth, 5)}
    metrics |= {"t2i R@1": recall_at(by_text, places, 1), "t2i R@5": recall_at(by_text, places, 5)}
    return metrics | {"chrF": chrf(captions, references).value}, right


def main() -> None:
    parser = argparse.ArgumentParser(description="Nearest-neighbour baselines on emoji of an unseen style.")
    parser.add_argument("--test", action="store_true", help="measure on OpenMoji (only for a release)")
    parser.add_argument("--data-dir", help="where the files live (default: $MM_DATA, else .data)")
    parser.add_argument("--matches", type=Path, help="write which captions were right to this .npz, for paired tests")
    options = parser.parse_args()

    vendor = TEST_VENDOR if options.test else DEV_VENDOR
    known = [item for item in load_items(TRAIN_VENDORS, options.data_dir) if split_of(item.concept) == "seen"]
    queries = [item for item in load_items([vendor], options.data_dir) if split_of(item.concept) == "seen"]
    print(f"style {vendor}, seen names: {len(queries)} pictures; {len(known)} training pictures; {SIZE} px")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pillow", "resvg-py", "sacrebleu"))
    print(f"Python {platform.python_version()}, {libraries}\n")
    print(f"{'1-NN over':24}{'EM (i2t R@1), 95 %':>22}{'i2t R@5':>9}{'t2i R@1':>9}{'t2i R@5':>9}{'chrF':>7}")
    all_right = {}
    for name, method, crop in METHODS:
        start = time.perf_counter()
        metrics, all_right[name] = measure(method, crop, known, queries, options.data_dir)
        match = f"{metrics['EM']:.3f} [{metrics['low']:.3f}, {metrics['high']:.3f}]"
        retrieval = f"{metrics['R@5']:>9.3f}{metrics['t2i R@1']:>9.3f}{metrics['t2i R@5']:>9.3f}"
        print(f"{name:24}{match:>22}{retrieval}{metrics['chrF']:>7.1f}", flush=True)
        print(f"  {time.perf_counter() - start:.1f} s", file=sys.stderr)
    if options.matches:
        np.savez(options.matches, concepts=[item.concept for item in queries], **all_right)


if __name__ == "__main__":
    main()
