"""Texts that a model writes for a batch of requests, as a whole or in parts as they come."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from .batching import Job
from .reading import Reader

_DRAWING = threading.Lock()


@dataclass(frozen=True)
class Written:
    """A text, how many tokens went in and came out, and whether it ended by itself or was cut at its limit."""

    text: str
    prompt_tokens: int
    tokens: int
    ended: bool


@torch.no_grad()
def write(reader: Reader, jobs: Sequence[Job], settings: dict[str, Any]) -> list[Written]:
    """One text for each job: what follows its own prompt."""
    model, processor = reader.model, reader.processor
    inputs = reader.inputs([job.given for job in jobs])
    settings = dict(settings)
    seed = settings.pop("seed", None)
    more: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([AllLeft([job.left for job in jobs])])}
    beams = settings.get("num_beams", model.generation_config.num_beams) or 1
    ends, stops = _ends(model, settings), settings.pop("stop_strings", None) or []
    start = inputs["input_ids"].shape[1] if "input_ids" in inputs else 1

    def decode(ids: Sequence[int]) -> str:
        return text_of(processor, ids, ends)

    if any(job.emit is not None for job in jobs) and beams == 1:
        more["streamer"] = RowStreamer([job.emit for job in jobs], decode, ends, stops)
    if stops:
        more["stopping_criteria"].append(AtStop(start, decode, stops))
    if samples(model, settings):
        # the generator is the process's: one model draws at a time
        with _DRAWING, torch.random.fork_rng():
            torch.manual_seed(torch.seed() if seed is None else seed)
            ids = model.generate(**inputs, **settings, **more)
    else:
        ids = model.generate(**inputs, **settings, **more)
    found = []
    for row, job in zip(ids[:, start:].tolist(), jobs, strict=True):
        new, ended = until_end(row, ends)
        text = decode(row)
        place = first_stop(text, stops)
        if place is not None:
            text, ended = text[:place].rstrip(), True
            counts = range(1, len(new) + 1)  # what a batch adds to a row that has ended is not counted
            new = new[: next(count for count in counts if first_stop(decode(new[:count]), stops) is not None)]
        prompt = sum(int(value.shape[1]) for name, value in job.given.rows.items() if name.endswith("input_ids"))
        found.append(Written(text, prompt, len(new), ended))
    return found


def samples(model: Any, settings: dict[str, Any]) -> bool:
    """Whether words are drawn, as the request says or by the model's own settings."""
    return bool(settings.get("do_sample", model.generation_config.do_sample))


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stops begins in a text."""
    return min((text.index(stop) for stop in stops if stop in text), default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """Where the longest end of a text begins that a stop could begin with."""
    starts = (len(text) - length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
    return min(starts, default=len(text))


def _ends(model: Any, settings: dict[str, Any]) -> set[int]:
    ends = model.generation_config.eos_token_id
    return set(ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends])


def until_end(ids: Sequence[int], ends: set[int]) -> tuple[list[int], bool]:
    """The tokens up to and with the first end, and whether there is one."""
    for place, one in enumerate(ids):
        if one in ends:
            return list(ids[: place + 1]), True
    return list(ids), False


def text_of(processor: Any, ids: Sequence[int], ends: set[int]) -> str:
    new, _ = until_end(ids, ends)
    return processor.batch_decode([new], skip_special_tokens=True)[0].strip()


class RowStreamer(BaseStreamer):
    """Hands each row's text on as it grows. The last word is held back until it is whole, and so is what a stop could
    begin with."""

    def __init__(
        self, emit: Sequence[Callable[[str], None] | None], decode: Callable[[list[int]], str], ends: set[int],
        stops: Sequence[str] = (),
    ):  # fmt: skip
        self.emit, self.decode, self.ends, self.stops = emit, decode, ends, stops
        self.ids: list[list[int]] = [[] for _ in emit]
        self.said = [""] * len(emit)
        self.has_begun = False

    def put(self, value: torch.Tensor) -> None:
        if not self.has_begun:  # the prompts
            self.has_begun = True
            return
        for row, token in enumerate(value.reshape(-1).tolist()):
            emit = self.emit[row]
            if emit is None or (self.ids[row] and self.ids[row][-1] in self.ends):
                continue
            self.ids[row].append(token)
            text = self.decode(self.ids[row])
            place = first_stop(text, self.stops)
            if place is not None:
                continue  # the rest comes with the whole text
            text = text[: held_back(text, self.stops)]
            whole = text[: max(0, text.rfind(" "))].rstrip()
            if len(whole) > len(self.said[row]) and whole.startswith(self.said[row]):
                emit(whole[len(self.said[row]) :])
                self.said[row] = whole

    def end(self) -> None:
        """The rest comes with the whole text."""


class AtStop(StoppingCriteria):
    """Ends a row whose own text, without its prompt, holds a stop."""

    def __init__(self, start: int, decode: Callable[[list[int]], str], stops: Sequence[str]):
        self.start, self.decode, self.stops = start, decode, stops

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        texts = [self.decode(row) for row in input_ids[:, self.start :].tolist()]
        done = [first_stop(text, self.stops) is not None for text in texts]
        return torch.tensor(done, device=input_ids.device)


class AllLeft(StoppingCriteria):
    """Ends a batch for which nobody waits any more."""

    def __init__(self, left: Sequence[threading.Event]):
        self.left = left

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        all_left = all(one.is_set() for one in self.left)
        return torch.full((input_ids.shape[0],), all_left, dtype=torch.bool, device=input_ids.device)
