"""Batches of the recipe of mm-tiny: drawings with names in six languages, and easy-VQA's pictures with questions.

n drawings, R rows of T tokens, S tokens of width Dv from the frozen tower.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..processing.images.processor import MMImageProcessorPil
from ..processing.vocabulary import PAD
from .augment import augment, draws
from .drawings import SEED, SIZE, normalised
from .easy_vqa import load_pictures_and_questions
from .emoji import EmojiItem, pictures
from .languages import token_of

OTHERS = 3  # languages beside English, for each drawing in a batch
# What a colour is called is asked, so it stays.
PLAIN = {"hue": 0.0, "saturation": 1.0, "brightness": 0.0, "contrast": 1.0, "outline": 1.0, "grey": 1.0}


def rows_of(texts: list[str], tokenizer, prompts: list[str]) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels (R, T); bos and what stands in a row's prompt, such as the token of its
    language, are no labels: else the model would choose a language where none is asked for."""
    rows = tokenizer(texts).input_ids
    skipped = [len(ids) - 1 for ids in tokenizer(prompts).input_ids]
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    labels = torch.full_like(ids, -100)
    for line, target, row, start in zip(ids, labels, rows, skipped, strict=True):
        line[: len(row)] = torch.tensor(row)
        target[start : len(row)] = torch.tensor(row[start:])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


@dataclass
class Names:
    """Names of drawings in batches: four to write, of which one is English, and one to be found by, which stands
    without its language's token."""

    items: list[EmojiItem]
    by_language: dict[str, dict[str, str]]
    tokenizer: Any

    def of(self, indices: list[int], epoch: int) -> dict[str, list[dict[str, torch.Tensor]]]:
        """written: rows with labels and context_index (R,), the shorter half and the longer half; found: one row for
        each drawing."""
        languages = list(self.by_language)
        written, found = [], []
        for place, index in enumerate(indices):
            draw = random.Random(f"{SEED} {epoch} {index}")
            names = {language: texts[self.items[index].concept] for language, texts in self.by_language.items()}
            chosen = ["en", *draw.sample([one for one in languages if one != "en"], OTHERS)]
            written += [(token_of(language) + names[language], place, token_of(language)) for language in chosen]
            found.append((names["en" if draw.random() < 0.5 else draw.choice(languages)], place, ""))
        written.sort(key=lambda row: len(self.tokenizer(row[0]).input_ids))
        half = len(written) // 2
        parts = [[*zip(*rows, strict=True)] for rows in (written[:half], written[half:], found)]
        made = [
            {**rows_of(list(texts), self.tokenizer, list(told)), "context_index": torch.tensor(places)}
            for texts, places, told in parts
        ]
        del made[2]["labels"]
        return {"written": made[:2], "found": made[2:]}


class Questions:
    """easy-VQA, split "train": PICTURES pictures with QUESTIONS questions each beside every batch of drawings."""

    PICTURES, QUESTIONS = 6, 3

    def __init__(self, tokenizer, processor: MMImageProcessorPil, split: str = "train"):
        raw, asked = load_pictures_and_questions(split)
        self.tokenizer, self.asked = tokenizer, asked
        made = [
            processor(list(raw[start : start + 500]), do_normalize=False, return_tensors="pt").pixel_values
            for start in range(0, len(raw), 500)
        ]
        self.pixels = (torch.cat(made) * 255).round().to(torch.uint8)  # (n, 3, S, S), cut to the content

    def chosen(self, batch: int, epoch: int) -> tuple[list[int], dict[str, torch.Tensor]]:
        """Pictures of one batch, and their rows."""
        draw = random.Random(f"{SEED} {epoch} {batch} questions")
        places = draw.sample(range(len(self.asked)), self.PICTURES)
        asked = [draw.sample(self.asked[place], min(self.QUESTIONS, len(self.asked[place]))) for place in places]
        index = torch.tensor([number for number, found in enumerate(asked) for _ in found])
        pairs = [pair for found in asked for pair in found]
        rows = rows_of([f"{question} {answer}" for question, answer in pairs], self.tokenizer, [q for q, _ in pairs])
        return places, {**rows, "context_index": index}

    def view(self, places: list[int], number: int) -> torch.Tensor:
        """Normalised pixels (n, 3, S, S), moved but not recoloured."""
        drawn = draws(places, number, SEED + 1)
        drawn |= {name: torch.full_like(drawn[name], value) for name, value in PLAIN.items()}
        return normalised(augment(self.pixels[places].float() / 255, drawn))


class Lessons(Dataset):
    """Batches of drawings and of questions. Each epoch sees another view of each picture, as pixels; after
    `store_features` one of `views` views, as features of the tower, float16 (views, n, S, Dv)."""

    def __init__(self, names: Names, questions: Questions, views: int):
        self.names, self.questions, self.views, self.epoch = names, questions, views, 0
        self.pixels = torch.from_numpy(pictures(names.items, SIZE, crop=True)).permute(
            0, 3, 1, 2
        )  # uint8 (n, 3, S, S)
        self.tables: tuple[torch.Tensor, torch.Tensor] | None = None

    def drawing(self, indices: list[int], number: int) -> torch.Tensor:
        """Normalised pixels (n, 3, S, S) of one view."""
        return normalised(augment(self.pixels[indices].float() / 255, draws(indices, number, SEED)))

    def store_features(self, tower: Any, folder: Path) -> None:
        """Computes the features of a tower that is frozen, or reads them from the folder."""
        drawings = stored_features(folder / "drawings.npy", tower, self.drawing, len(self.pixels), self.views)
        count = len(self.questions.asked)
        asked = stored_features(folder / "questions.npy", tower, self.questions.view, count, self.views)
        self.tables = drawings, asked

    def look_anew(self) -> None:
        """Views after the stored ones, as pixels."""
        self.tables, self.epoch = None, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.names.items)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """{"drawings", "written" and "found": rows about them, "asked": pictures, "answered": rows about those}."""
        places, asked = self.questions.chosen(indices[0], self.epoch)
        if self.tables is None:
            view = self.views + self.epoch
            drawn = {"pixel_values": self.drawing(indices, view)}
            shown = {"pixel_values": self.questions.view(places, view)}
        else:
            view, (drawings, questions) = self.epoch % self.views, self.tables
            drawn = {"visual_embeds": drawings[view, indices].float()}
            shown = {"visual_embeds": questions[view, places].float()}
        return {"drawings": drawn, **self.names.of(indices, self.epoch), "asked": shown, "answered": [asked]}


@torch.no_grad()
def stored_features(file: Path, tower: Any, view: Callable, count: int, views: int) -> torch.Tensor:
    """(views, count, S, Dv) of `view(places, number)`, read from the file, which is made if it is not there."""
    if not file.exists():
        part = file.with_suffix(".part")
        shape = (views, count, tower.config.grid_size**2, tower.config.hidden_size)
        table = np.lib.format.open_memmap(part, "w+", np.float16, shape)
        for number in tqdm(range(views), desc=f"features: {file.stem}", unit=" views", disable=None):
            for start in range(0, count, 16):
                places = list(range(start, min(start + 16, count)))
                table[number, places] = tower(pixel_values=view(places, number)).last_hidden_state.numpy()
        part.rename(file)
    return torch.from_numpy(np.load(file, mmap_mode="c"))
