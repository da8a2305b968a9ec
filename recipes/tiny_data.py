"""Batches of the recipe of mm-tiny: drawings with names in six languages, easy-VQA's pictures with questions, words.

n drawings, R rows of T tokens, S tokens of width Dv from the frozen tower, P numbers of an embedding.
"""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import BertModel, BertTokenizer

from ..processing.images.processor import MMImageProcessorPil
from ..processing.vocabulary import PAD
from .augment import augment, draws, vary
from .drawings import SEED, SIZE, normalised
from .easy_vqa import load_pictures_and_questions
from .emoji import EmojiItem, pictures
from .languages import token_of
from .sources import minilm_directory

OTHERS = 3  # languages beside English, for each drawing in a batch
# What a colour is called is asked, so it stays.
PLAIN = {"hue": 0.0, "saturation": 1.0, "brightness": 0.0, "contrast": 1.0, "outline": 1.0, "grey": 1.0}


def rows_of(texts: list[str], tokenizer, prompts: list[str]) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels (R, T); bos and what stands in a row's prompt, such as the token of its
    language, are no labels: else the model would choose a language where none is asked for."""
    rows = [ids_of(tokenizer, text) for text in texts]
    skipped = [len(ids_of(tokenizer, prompt)) - 1 for prompt in prompts]
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    labels = torch.full_like(ids, -100)
    for line, target, row, start in zip(ids, labels, rows, skipped, strict=True):
        line[: len(row)] = torch.tensor(row)
        target[start : len(row)] = torch.tensor(row[start:])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


@functools.lru_cache(maxsize=1 << 16)
def ids_of(tokenizer, text: str) -> tuple[int, ...]:
    """Of a text that comes again in every epoch."""
    return tuple(tokenizer(text).input_ids)


@dataclass
class Names:
    """Names of drawings in batches: four to write, of which one is English, and one to be found by, which stands
    without its language's token."""

    items: list[EmojiItem]
    by_language: dict[str, dict[str, str]]
    tokenizer: Any

    @functools.cached_property
    def concepts(self) -> dict[str, int]:
        """A number for each thing that is drawn."""
        return {concept: number for number, concept in enumerate(sorted({item.concept for item in self.items}))}

    def of(self, indices: list[int], epoch: int) -> dict[str, Any]:
        """written: rows with labels and context_index (R,), the shorter half and the longer half; found: one row for
        each drawing; concepts: int64 (n,), what it shows."""
        languages = list(self.by_language)
        written, found = [], []
        for place, index in enumerate(indices):
            draw = random.Random(f"{SEED} {epoch} {index}")
            names = {language: texts[self.items[index].concept] for language, texts in self.by_language.items()}
            chosen = ["en", *draw.sample([one for one in languages if one != "en"], OTHERS)]
            written += [(token_of(language) + names[language], place, token_of(language)) for language in chosen]
            found.append((names["en" if draw.random() < 0.5 else draw.choice(languages)], place, ""))
        written.sort(key=lambda row: len(ids_of(self.tokenizer, row[0])))
        half = len(written) // 2
        parts = [[*zip(*rows, strict=True)] for rows in (written[:half], written[half:], found)]
        made = [
            {**rows_of(list(texts), self.tokenizer, list(told)), "context_index": torch.tensor(places)}
            for texts, places, told in parts
        ]
        del made[2]["labels"]
        concepts = torch.tensor([self.concepts[self.items[index].concept] for index in indices])
        return {"written": made[:2], "found": made[2:], "concepts": concepts}


class Words:
    """What names and search words mean, as MiniLM tells it: vectors of length 1, by their first principal components.

    names: (concepts, P), of the English names; words: the search words of the drawings, except those that are a name
    in `left_out`; meant: (words, P).
    """

    COUNT = 24  # beside every batch of drawings

    def __init__(self, names: Names, left_out: set[str], width: int, file: Path):
        english, self.tokenizer = names.by_language["en"], names.tokenizer
        called = [english[concept] for concept in names.concepts]
        tags = {tag.lower() for item in names.items for tag in item.tags}
        self.words = sorted(tags - left_out - set(called))
        if not file.exists():
            np.save(file, sentence_vectors([*called, *self.words]))
        vectors = torch.from_numpy(np.load(file))
        vectors = vectors - vectors.mean(0)
        components = torch.linalg.svd(vectors, full_matrices=False)[2][:width]
        vectors = torch.nn.functional.normalize(vectors @ components.T, dim=-1)
        self.names, self.meant = vectors[: len(called)], vectors[len(called) :]

    def chosen(self, batch: int, epoch: int, concepts: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows of some words; meant: (n + COUNT, P), of the names of concepts (n,) and then of the words."""
        places = random.Random(f"{SEED} {epoch} {batch} words").sample(range(len(self.words)), self.COUNT)
        rows = rows_of([self.words[place] for place in places], self.tokenizer, [""] * len(places))
        del rows["labels"]
        return {**rows, "meant": torch.cat([self.names[concepts], self.meant[places]])}


@torch.no_grad()
def sentence_vectors(texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """float32 (n, 384), of length 1: the means of MiniLM's last states."""
    folder = minilm_directory()
    tokenizer, model = BertTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found = torch.zeros(len(texts), model.config.hidden_size)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        inputs = tokenizer([texts[place] for place in places], padding=True, return_tensors="pt")
        mask = inputs["attention_mask"][..., None]
        found[places] = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(found, dim=-1).numpy()


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
    `store_features` one of `views` views, as features of the tower, float16 (views, n, S, Dv). With `words` there are
    search words in each batch, and views vary more."""

    def __init__(self, names: Names, questions: Questions, views: int):
        self.names, self.questions, self.views, self.epoch = names, questions, views, 0
        self.first_view, self.words = views, None
        self.pixels = torch.from_numpy(pictures(names.items, SIZE, crop=True)).permute(
            0, 3, 1, 2
        )  # uint8 (n, 3, S, S)
        self.tables: tuple[torch.Tensor, torch.Tensor] | None = None

    def drawing(self, indices: list[int], number: int) -> torch.Tensor:
        """Normalised pixels (n, 3, S, S) of one view."""
        pixels = self.pixels[indices].float() / 255
        if self.words is not None:
            others = self.pixels[[self._other(index, number) for index in indices]].float() / 255
            pixels = vary(pixels, others, indices, number, SEED)
        return normalised(augment(pixels, draws(indices, number, SEED)))

    @functools.cached_property
    def _same(self) -> dict[str, list[int]]:
        """The drawings of each concept."""
        found: dict[str, list[int]] = {}
        for index, item in enumerate(self.names.items):
            found.setdefault(item.concept, []).append(index)
        return found

    def _other(self, index: int, number: int) -> int:
        """Another drawing of the same, or this one if there is none."""
        others = [one for one in self._same[self.names.items[index].concept] if one != index]
        return random.Random(f"{SEED} {number} {index} other").choice(others or [index])

    def store_features(self, tower: Any, folder: Path) -> None:
        """Computes the features of a tower that is frozen, or reads them from the folder."""
        drawings = stored_features(folder / "drawings.npy", tower, self.drawing, len(self.pixels), self.views)
        count = len(self.questions.asked)
        asked = stored_features(folder / "questions.npy", tower, self.questions.view, count, self.views)
        self.tables = drawings, asked

    def look_anew(self, first_view: int, words: Words | None = None) -> None:
        """Views from a number on, as pixels."""
        self.tables, self.epoch, self.first_view, self.words = None, 0, first_view, words

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.names.items)

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """{"drawings", "written" and "found": rows about them, "concepts", "asked": pictures, "answered": rows about
        those, and "words"}."""
        places, asked = self.questions.chosen(indices[0], self.epoch)
        if self.tables is None:
            view = self.first_view + self.epoch
            drawn = {"pixel_values": self.drawing(indices, view)}
            shown = {"pixel_values": self.questions.view(places, view)}
        else:
            view, (drawings, questions) = self.epoch % self.views, self.tables
            drawn = {"visual_embeds": drawings[view, indices].float()}
            shown = {"visual_embeds": questions[view, places].float()}
        named = self.names.of(indices, self.epoch)
        if self.words is not None:
            named["words"] = self.words.chosen(indices[0], self.epoch, named["concepts"])
        return {"drawings": drawn, **named, "asked": shown, "answered": [asked]}


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
