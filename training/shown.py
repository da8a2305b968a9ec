"""predictions.jsonl: what a model said about each sample, and small pictures of those that the report shows."""

import base64
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..processing.batches import sources_of
from ..processing.columns import renamed
from ..processing.images.limits import MediaDecodeError
from ..processing.images.load import load_image
from .predictions import Question

NAME = "predictions.jsonl"
WORST, DRAWN = 8, 8  # how many the report shows
SIDE = 160  # pixels of a small picture


def save_predictions(
    questions: list[Question],
    dataset: Any,
    columns: Mapping[str, str | None],
    folder: str | os.PathLike,
    best: bool = False,
    *,
    shown: Mapping[int, str] | None = None,
    groups: Sequence[str] | None = None,
) -> Path:
    """One line for each question: id, file, prompt, prediction, references, answers, score, confidence; "shown" says
    "worst", "drawn" or (`best`) "best" where the report shows it, with a small picture.

    The worst have the lowest scores; the drawn ones are a sample that depends on nothing but the number of questions.

    shown: others in their place. groups: the name of a group for each question, under "group".
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shown = chosen(questions, best) if shown is None else shown
    path = folder / NAME
    with path.open("w", encoding="utf-8") as file:
        for number, question in enumerate(questions):
            line = {
                "id": question.id,
                "file": question.file or None,
                "group": None if groups is None else groups[number],
                "prompt": question.text if question.context_text is None else question.context_text,
                "prediction": question.prediction,
                "references": question.references,
                "answers": question.answers or None,
                "score": None if math.isnan(question.score) else round(question.score, 6),
                "confidence": None if math.isnan(question.confidence) else round(question.confidence, 6),
            }
            if number in shown:
                line |= {"shown": shown[number], "picture": _small(dataset, question.sample, columns)}
            kept = {name: value for name, value in line.items() if value is not None}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    return path


def chosen(questions: list[Question], best: bool = False) -> dict[int, str]:
    """{number of a question: "drawn", "worst" or "best"}."""
    drawn = np.random.default_rng(0).permutation(len(questions))[:DRAWN].tolist()
    scored = [number for number, question in enumerate(questions) if not math.isnan(question.score)]
    worst = [number for number in sorted(scored, key=lambda number: questions[number].score) if number not in drawn]
    top = dict.fromkeys(worst[WORST:][-WORST:][::-1], "best") if best else {}
    return dict.fromkeys(sorted(drawn), "drawn") | dict.fromkeys(worst[:WORST], "worst") | top


def _small(dataset: Any, number: int, columns: Mapping[str, str | None]) -> str | None:
    """The sample's first picture as a data URL; None where there is none, or the data is a stream."""
    if not hasattr(dataset, "__getitem__"):
        return None
    sample = renamed([dataset[number]], columns)[0]
    found = sources_of(number, sample)["images"]
    if not found or found[0] is None:
        return None
    try:
        return data_url(load_image(found[0]))
    except (MediaDecodeError, ValueError, TypeError, OSError):  # the prediction is worth its line without a picture
        return None


def data_url(picture: Any, side: int = SIDE) -> str:
    """A picture of at most `side` pixels as data:image/png;base64,..., which needs no file next to a page."""
    small = (picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))).convert("RGB")
    small.thumbnail((side, side))
    held = io.BytesIO()
    small.save(held, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def read_predictions(folder: str | os.PathLike) -> Iterable[dict[str, Any]]:
    """The lines of predictions.jsonl; none where there is no such file."""
    path = Path(folder) / NAME
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
