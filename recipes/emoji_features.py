"""Features of the emoji by the frozen EfficientNet-Lite0, computed once and stored: the input of the small benchmarks.

n drawings, S tokens of width Dv each.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..conversion_scripts.efficientnet_lite import load_efficientnet_lite0
from .drawings import SIZE, Drawings, Features, normalised
from .emoji import DEV_VENDOR, TRAIN_VENDORS, EmojiItem, load_items, pictures, split_of
from .sources import efficientnet_lite0_file

VIEWS = 2


@dataclass
class EmojiFeatures:
    """Drawings and their features. train: six styles of the seen names, train_table fp16 (views, n, S, Dv); dev:
    Twemoji, first the seen names and then the new ones for development, dev_table fp16 (n, S, Dv)."""

    train: list[EmojiItem]
    train_table: torch.Tensor
    dev: list[EmojiItem]
    dev_table: torch.Tensor

    def dev_split(self, name: str) -> tuple[list[EmojiItem], torch.Tensor]:
        """The drawings of "seen" or "unseen_dev" and their features."""
        chosen = [i for i, item in enumerate(self.dev) if split_of(item.concept) == name]
        return [self.dev[i] for i in chosen], self.dev_table[chosen]


def emoji_features(folder: Path, views: int = VIEWS) -> EmojiFeatures:
    """Read from `folder`, or computed and stored there: two or three minutes of one core.

    Raises: ValueError where the stored features are of another number of views.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train = [item for item in load_items(TRAIN_VENDORS) if split_of(item.concept) == "seen"]
    twemoji = load_items([DEV_VENDOR])
    dev = [item for name in ("seen", "unseen_dev") for item in twemoji if split_of(item.concept) == name]
    files = folder / "train.npy", folder / "dev.npy"
    if not all(file.exists() for file in files):
        tower = load_efficientnet_lite0(efficientnet_lite0_file(), SIZE).eval()
        Features(Drawings(train, torch.zeros(len(train), 1), first_view=views), tower, views, files[0])
        _store_dev_table(dev, tower, files[1])
    table = torch.from_numpy(np.load(files[0], mmap_mode="c"))
    if table.shape[:2] != (views, len(train)):
        raise ValueError(f"{files[0]} holds {tuple(table.shape[:2])} views and drawings, not {(views, len(train))}")
    return EmojiFeatures(train, table, dev, torch.from_numpy(np.load(files[1])))


@torch.no_grad()
def _store_dev_table(items: list[EmojiItem], tower, file: Path) -> None:
    pixels = torch.from_numpy(pictures(items, SIZE, crop=True)).permute(0, 3, 1, 2)
    parts = [tower(pixel_values=normalised(part.float() / 255)).last_hidden_state for part in pixels.split(32)]
    np.save(file, torch.cat(parts).half().numpy())
