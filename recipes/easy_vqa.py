"""easy-VQA: questions about one coloured shape per picture, with a fixed split (MIT; the package easy-vqa of PyPI).

4000 and 1000 pictures of 64 x 64 pixels; 38,575 and 9,673 questions, 107 of them distinct, and 13 answers: three
shapes, eight colours, yes and no. Who only knows the questions and answers each as training does most often is right
for 67 % of the test questions. A word is a token.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from .sources import easy_vqa_directory

SIZE = 64  # pixels
PAD, BOS, EOS = 0, 1, 2


@dataclass
class Questions:
    """One split. pixels: float32 (n, 3, 64, 64) in -1..1; texts and answers: m of them; index: int64 (m,), question ->
    picture, ascending."""

    pixels: torch.Tensor
    texts: list[str]
    answers: list[str]
    index: torch.Tensor


def load_questions(split: str, data_dir: str | Path | None = None) -> Questions:
    """The split "train" or "test", by picture."""
    entries, numbers, pictures = _read(split, data_dir)
    places = {number: place for place, number in enumerate(numbers)}
    return Questions(
        pixels=torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1,
        texts=[text for text, _, _ in entries],
        answers=[answer for _, answer, _ in entries],
        index=torch.tensor([places[number] for *_, number in entries]),
    )


def _read(split: str, data_dir: str | Path | None) -> tuple[list, list[int], np.ndarray]:
    """[text, answer, number of the picture], by picture; the numbers; uint8 (n, 64, 64, 3)."""
    folder = easy_vqa_directory(data_dir) / split
    entries = sorted(json.loads((folder / "questions.json").read_text(encoding="utf-8")), key=lambda entry: entry[2])
    numbers = sorted({number for *_, number in entries})
    pictures = np.empty((len(numbers), SIZE, SIZE, 3), np.uint8)
    for place, number in enumerate(tqdm(numbers, desc=f"{split} pictures", unit=" pictures", disable=None)):
        with Image.open(folder / "images" / f"{number}.png") as picture:
            pictures[place] = np.asarray(picture.convert("RGB"))
    return entries, numbers, pictures


def load_pictures_and_questions(
    split: str, data_dir: str | Path | None = None
) -> tuple[np.ndarray, list[list[tuple[str, str]]]]:
    """uint8 (n, 64, 64, 3) of the split "train" or "test", and the (question, answer) pairs of each picture."""
    entries, numbers, pictures = _read(split, data_dir)
    asked: dict[int, list[tuple[str, str]]] = {number: [] for number in numbers}
    for text, answer, number in entries:
        asked[number].append((text, answer))
    return pictures, list(asked.values())


class Words:
    """The words of the questions, and the answers, as ids."""

    def __init__(self, train: Questions):
        self.answers = sorted(set(train.answers))
        words = sorted({word for text in train.texts for word in _split(text)} | set(self.answers))
        self.ids = {word: number for number, word in enumerate(words, start=EOS + 1)}
        self.size = EOS + 1 + len(words)

    def questions(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 (m, T): bos and the words of each question, padded on the right, and which are real."""
        rows = [[BOS, *(self.ids[word] for word in _split(text))] for text in texts]
        ids = torch.full((len(rows), max(map(len, rows))), PAD)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row)] = torch.tensor(row)
        return ids, (ids != PAD).long()

    def classes(self, answers: list[str]) -> torch.Tensor:
        """int64 (m,): the number of each answer."""
        return torch.tensor([self.answers.index(answer) for answer in answers])

    def candidates(self) -> torch.Tensor:
        """int64 (13, 2): each answer and eos."""
        return torch.tensor([[self.ids[answer], EOS] for answer in self.answers])


def _split(text: str) -> list[str]:
    return text.rstrip("?").split()


def question_only(train: Questions, test: Questions) -> np.ndarray:
    """float64 (m,): 1.0 where the answer that a question most often has in training is right."""
    counts: dict[str, Counter[str]] = {}
    for text, answer in zip(train.texts, train.answers, strict=True):
        counts.setdefault(text, Counter())[answer] += 1
    likeliest = {text: found.most_common(1)[0][0] for text, found in counts.items()}
    return np.array(
        [float(likeliest.get(text) == right) for text, right in zip(test.texts, test.answers, strict=True)]
    )
