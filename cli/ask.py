"""`mm ask` and `mm match`: questions about a picture, and how well texts fit it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling_mm.tasks.pipelines import composed
from ..processing.media_kinds import ARGUMENT_OF
from .caption import without_other_bars
from .media_lists import kind_of, other_kind
from .models import load_head
from .printing import json_line, printable


def ask(
    medium: Path, questions: Sequence[str], say: Callable[[str], Any], *, model: str | None = None,
    answers: Path | None = None, top_k: int = 3, num_beams: int | None = None, max_new_tokens: int | None = None,
    device: str | None = None, dtype: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Answers questions about a picture, video or sound: question, tab, answer.

    Args:
        questions: none: they are read from stdin, a line each, until it ends.
        answers: a file of answers, a line each, to rank: the best `top_k` with their log-likelihood per token.
    """
    written = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    settings = {name: value for name, value in written.items() if value is not None}
    if answers is not None and settings:
        raise ValueError(f"--answers are ranked, not written, so {', '.join(settings)} would not be read")
    listed = None if answers is None else listed_in(answers, "--answers")
    with without_other_bars():
        loaded, processor = load_head(model, ("MMForConditionalGeneration",), device=device, dtype=dtype)
    asker = Asker(loaded, processor, medium)
    for question in questions or _typed():
        if not question.strip():
            raise ValueError("a question is empty")
        if listed is None:
            found = [(asker.write(question, settings), None)]
        else:
            found = asker.rank(question, listed)[:top_k]
        for text, score in found:
            held = {"question": question, "answer": text} | ({} if score is None else {"score": score})
            line = f"{printable(question)}\t{printable(text)}" + ("" if score is None else f"\t{score:.3f}")
            say(json_line(held) if as_json else line)


# Of a prompt without a question, which a processor that puts media before the text makes of them.
_OF_TEXT = ("input_ids", "attention_mask", "context_ranges")


class Asker:
    """A medium that is encoded once, unless a text encoder reads it together with each question."""

    def __init__(self, model: Any, processor: Any, medium: Path):
        kind = kind_of(medium)
        if kind not in model.config.modalities:
            raise ValueError(f"{medium}: {other_kind(kind, model.config.modalities)}")
        self.model, self.processor = model, processor
        self.kind, self.source = kind, {ARGUMENT_OF[kind]: [[medium]]}
        read = processor(**self.source, return_tensors="pt").to(model.device)
        self.media: dict[str, Any] = {
            name: value.to(model.dtype) if value.is_floating_point() else value
            for name, value in read.items()
            if name not in _OF_TEXT
        }
        if not model.config.has_text_encoder:
            with torch.no_grad():
                self.media = {"encoder_outputs": model.encode_context(**self.media)}

    def _inputs(self, question: str) -> dict[str, Any]:
        side = "context_text" if self.model.config.has_text_encoder else "text"
        asked = self.processor.about(self.kind, composed(question))
        beside = self.source if self.processor.tiles is not None else {}  # the text has as many places as tiles
        given = {side: [asked.pop("text")], **beside, **asked}
        read = self.processor(**given, add_eos_token=False, return_tensors="pt").to(self.model.device)
        return {**self.media, **{name: read[name] for name in read if not beside or name in _OF_TEXT}}

    def write(self, question: str, settings: dict[str, Any]) -> str:
        inputs = self._inputs(question)
        ids = self.model.generate(**inputs, **settings)
        new = ids[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else ids
        return " ".join(self.processor.batch_decode(new, skip_special_tokens=True)[0].split())

    def rank(self, question: str, answers: list[str]) -> list[tuple[str, float]]:
        tokenizer = self.processor.tokenizer
        eos = tokenizer.eos_token or tokenizer.sep_token or ""
        ends = tokenizer(
            [composed(answer) + eos for answer in answers], add_special_tokens=False, padding=True, return_tensors="pt"
        ).to(self.model.device)
        ranked = self.model.rank_answers(ends.input_ids, ends.attention_mask, **self._inputs(question))
        scores = ranked.scores[0].tolist()
        return [(answers[place], scores[place]) for place in ranked.indices[0].tolist()]


def match(
    medium: Path, texts: Sequence[str], say: Callable[[str], Any], *, model: str, device: str | None = None,
    dtype: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """How well texts fit a picture, video or sound, the best first: similarity, probability of a match, text. Without
    a matching head only the similarity."""
    with without_other_bars():
        loaded, processor = load_head(model, ("MMForImageTextRetrieval",), device=device, dtype=dtype)
    kind = kind_of(medium)
    if kind not in loaded.config.modalities:
        raise ValueError(f"{medium}: {other_kind(kind, loaded.config.modalities)}")
    item = {kind: medium}
    similar = loaded.similarity([item], [{"text": text} for text in texts], processor=processor)[0].tolist()
    odds: list[float | None] = [None] * len(texts)
    if loaded.itm_head is not None:
        read = processor(
            **{ARGUMENT_OF[kind]: [[medium]]}, text=[[composed(text) for text in texts]], return_tensors="pt"
        )
        read = {k: v.to(loaded.dtype) if v.is_floating_point() else v for k, v in read.to(loaded.device).items()}
        with torch.no_grad():
            odds = list(loaded.match(**read).float().softmax(1)[:, 1].tolist())
    by = odds if loaded.itm_head is not None else similar
    for place in sorted(range(len(texts)), key=lambda place: -(by[place] or 0.0)):
        chance = odds[place]
        held = {"text": texts[place], "similarity": similar[place]} | ({} if chance is None else {"match": chance})
        shown = "" if chance is None else f"{chance:.4f}\t"
        say(json_line(held) if as_json else f"{similar[place]:.4f}\t{shown}{printable(texts[place])}")


def listed_in(path: Path, option: str) -> list[str]:
    """The lines of a file, each once."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{option} {path} is no text in UTF-8") from None
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise ValueError(f"{option} {path} holds no lines")
    return found


def _typed() -> Iterator[str]:
    """Questions from stdin, asked for where somebody types them."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            sys.stderr.write("question (Ctrl-D ends): ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
