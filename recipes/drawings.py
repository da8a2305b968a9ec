"""Training batches of drawings and their names: fresh views as pixels, or stored features of a frozen tower.

n drawings of SIZE x SIZE pixels, T tokens of a name, S tokens of width Dv from the tower.
"""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..conversion_scripts.efficientnet_lite import IMAGE_MEAN, IMAGE_STD
from ..modeling_mm.towers.conv import MMConvModel
from .augment import augment, draws
from .emoji import EmojiItem, pictures

SIZE = 128  # pixels
SEED = 0


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """float (n, 3, S, S) in 0..1 -> what the tower was trained on."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return (pixels - mean) / std


def caption_ids(items: list[EmojiItem], tokenizer) -> torch.Tensor:
    """int64 (n, T): bos, the name's pieces, eos, padded with 0 on the right."""
    rows = [tokenizer(item.label).input_ids for item in items]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, pieces in zip(ids, rows, strict=True):
        row[: len(pieces)] = torch.tensor(pieces)
    return ids


def text_inputs(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch of caption ids as model inputs: every token except bos is a label."""
    ids = ids[:, : int((ids != 0).sum(1).max())]
    labels = ids.masked_fill(ids == 0, -100)
    labels[:, 0] = -100
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


class Drawings(Dataset):
    """Drawings and their names; each epoch sees another view of each, a function of (seed, epoch, index)."""

    def __init__(self, items: list[EmojiItem], ids: torch.Tensor, first_view: int):
        self.pixels = torch.from_numpy(pictures(items, SIZE, crop=True)).permute(0, 3, 1, 2)  # uint8 (n, 3, S, S)
        self.ids, self.first_view, self.epoch = ids, first_view, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.pixels)

    def view(self, indices: list[int], number: int) -> torch.Tensor:
        """Normalised pixels (n, 3, S, S) of one view of the drawings."""
        return normalised(augment(self.pixels[indices].float() / 255, draws(indices, number, SEED)))

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        pixels = self.view(indices, self.first_view + self.epoch)
        return {**text_inputs(self.ids[indices]), "pixel_values": pixels}


class Features(Dataset):
    """Features of the frozen tower for some views of the drawings, computed once; each epoch sees one view of each."""

    def __init__(self, drawings: Drawings, tower: MMConvModel, views: int, file: Path):
        self.ids, self.epoch, self.views = drawings.ids, 0, views
        grid, width = tower.config.grid_size**2, tower.config.hidden_size
        if not file.exists():
            part = file.with_suffix(".part")
            table = np.lib.format.open_memmap(part, "w+", np.float16, (views, len(drawings), grid, width))
            for view in tqdm(range(views), desc="features of the frozen tower", unit=" views"):
                self._fill(table[view], drawings, tower, view)
            part.rename(file)
        self.table = torch.from_numpy(np.load(file, mmap_mode="c"))

    @staticmethod
    @torch.no_grad()
    def _fill(table: np.ndarray, drawings: Drawings, tower: MMConvModel, view: int) -> None:
        for start in range(0, len(drawings), 16):
            indices = list(range(start, min(start + 16, len(drawings))))
            table[indices] = tower(pixel_values=drawings.view(indices, view)).last_hidden_state.numpy()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {
            **text_inputs(self.ids[indices]),
            "visual_embeds": self.table[self.epoch % self.views, indices].float(),
        }
