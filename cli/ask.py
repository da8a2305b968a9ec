"""`mm ask` and `mm match`: questions about pictures, videos and sounds, and how well texts fit them.

B files in a batch, T texts.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..modeling_mm.tasks.pipelines import composed
from ..processing.media_kinds import ARGUMENT_OF, kind_of, other_kind
from ..processing.reading import in_batches
from .caption import without_other_bars
from .long_work import keep, open_results
from .media_lists import told_media
from .models import load_head
from .printing import json_line, printable

Found = list[tuple[str, float | None]]  # answers to a question, with their scores where they are ranked


def ask(
    media: Path | Sequence[str | Path], questions: Sequence[str], say: Callable[[str], Any], *,
    model: str | None = None, answers: Path | None = None, top_k: int = 3, num_beams: int | None = None,
    max_new_tokens: int | None = None, batch_size: int = 8, recursive: bool = False, output: Path | None = None,
    resume: bool = False, workers: int | None = None, device: str | None = None, dtype: str | None = None,
    as_json: bool = False,
) -> bool:  # fmt: skip
    """Answers questions about pictures, videos and sounds: name, tab, question, tab, answer; without the name where
    one file is asked about.

    Args:
        media: a file, or files and folders as of `told_media`.
        questions: none: they are read from stdin, a line each, until it ends.
        answers: a file of answers, a line each, to rank: the best `top_k` with their log-likelihood per token.
        output, resume: as `print_captions`.

    Returns: whether every file could be read.
    """
    written = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    settings = {name: value for name, value in written.items() if value is not None}
    if answers is not None and settings:
        raise ValueError(f"--answers are ranked, not written, so {', '.join(settings)} would not be read")
    listed = None if answers is None else listed_in(answers, "--answers")
    if any(not question.strip() for question in questions):
        raise ValueError("a question is empty")
    media = [media] if isinstance(media, Path) else media
    if not questions and "-" in map(str, media):
        raise ValueError("stdin holds the names of the files (-), so the questions must be given: mm ask - QUESTION")
    with without_other_bars():
        loaded, processor = load_head(model, ("MMForConditionalGeneration",), device=device, dtype=dtype)
    files, is_one = told_media(media, loaded.config.modalities, recursive), _is_one(media)

    def answer(asker: Asker, question: str) -> list[Found]:
        if listed is None:
            return [[(text, None)] for text in asker.write_all(question, settings)]
        return [list(ranked[:top_k]) for ranked in asker.rank_all(question, listed)]

    def tell(path: Path, question: str, found: Found) -> None:
        for text, score in found:
            held = {"path": str(path), "question": question, "answer": text}
            shown = [*([] if is_one else [path.name]), question, text, *([] if score is None else [f"{score:.3f}"])]
            line = "\t".join(map(printable, shown))
            say(json_line(held | ({} if score is None else {"score": score})) if as_json else line)

    if not questions and is_one and output is None:
        asker = Asker(loaded, processor, files[0])
        for question in _typed():
            tell(files[0], question, *answer(asker, question))
        return True
    questions = list(questions or _typed())
    if not questions:
        raise ValueError("no questions: give some, or a line each on stdin")

    def work(read: dict[str, torch.Tensor], numbers: list[int]) -> list[list[Found]]:
        asker = Asker(loaded, processor, [todo[number] for number in numbers], read)
        return list(map(list, zip(*(answer(asker, question) for question in questions), strict=True)))

    held = {"command": "ask", "model": model, "questions": questions, "answers": listed, "top_k": top_k}
    results, todo = open_results(output, {**held, **written, "dtype": dtype}, resume, files)

    def lines(found: list[Found]) -> dict[str, Any]:
        told = zip(questions, found, strict=True)
        return {"answers": [
            {"question": question, "answer": text} | ({} if score is None else {"score": score})
            for question, one in told for text, score in one
        ]}  # fmt: skip

    def tell_all(path: Path, found: list[Found]) -> None:
        for question, one in zip(questions, found, strict=True):
            tell(path, question, one)

    batches = in_batches(todo, processor, loaded.config.modalities, work, batch_size, workers)
    return keep(results, todo, batches, lines, tell_all)


def _is_one(media: Sequence[str | Path]) -> bool:
    """Whether a single file is meant, by its name: a folder or a pattern means several, however many it holds."""
    return len(media) == 1 and Path(media[0]).is_file()


# Of a prompt without a question, which a processor that puts media before the text makes of them.
_OF_TEXT = ("input_ids", "attention_mask", "context_ranges")


class Asker:
    """Media of one kind and shape, encoded once, unless a text encoder reads them together with each question.

    Args:
        media: a file, or B of them. read: what the processor made of these already, tensors (B, ...).
    """

    def __init__(
        self, model: Any, processor: Any, media: Path | Sequence[Path], read: dict[str, torch.Tensor] | None = None
    ):
        files = [media] if isinstance(media, Path) else list(media)
        kind = kind_of(files[0])
        if kind not in model.config.modalities:
            raise ValueError(f"{files[0]}: {other_kind(kind, model.config.modalities)}")
        self.model, self.processor, self.count = model, processor, len(files)
        self.kind, self.source = kind, {ARGUMENT_OF[kind]: [[path] for path in files]}
        made: Any = processor(**self.source, return_tensors="pt") if read is None else read
        self.media: dict[str, Any] = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in made.items()
            if name not in _OF_TEXT
        }
        self.side = processor.prompt_side(model.config)
        if self.side == "text":
            with torch.no_grad():
                self.media = {"encoder_outputs": model.encode_context(**self.media)}

    def _inputs(self, question: str) -> dict[str, Any]:
        asked = self.processor.about(self.kind, composed(question))
        beside: dict[str, Any] = {}
        if self.processor.tiles is not None:  # the text has as many places as tiles, of pictures of other forms others
            beside = {**self.source, "padding_side": "left"}
        given = {self.side: [asked.pop("text")] * self.count, **beside, **asked}
        read = self.processor(**given, add_eos_token=False, return_tensors="pt").to(self.model.device)
        return {**self.media, **{name: read[name] for name in read if not beside or name in _OF_TEXT}}

    def write(self, question: str, settings: dict[str, Any]) -> str:
        """The answer about the first file."""
        return self.write_all(question, settings)[0]

    def write_all(self, question: str, settings: dict[str, Any]) -> list[str]:
        """An answer about each file. settings: of generate()."""
        inputs = self._inputs(question)
        ids = self.model.generate(**inputs, **settings)
        new = ids[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else ids
        return [" ".join(text.split()) for text in self.processor.batch_decode(new, skip_special_tokens=True)]

    def rank(self, question: str, answers: list[str]) -> list[tuple[str, float]]:
        """The answers with their scores about the first file, the best first."""
        return self.rank_all(question, answers)[0]

    def rank_all(self, question: str, answers: list[str]) -> list[list[tuple[str, float]]]:
        """As `rank`, about each file."""
        tokenizer = self.processor.tokenizer
        eos = tokenizer.eos_token or tokenizer.sep_token or ""
        ends = tokenizer(
            [composed(answer) + eos for answer in answers], add_special_tokens=False, padding=True, return_tensors="pt"
        ).to(self.model.device)
        ranked = self.model.rank_answers(ends.input_ids, ends.attention_mask, **self._inputs(question))
        return [
            [(answers[place], scores[place]) for place in places]
            for places, scores in zip(ranked.indices.tolist(), ranked.scores.tolist(), strict=True)
        ]


def match(
    media: Sequence[str | Path], texts: Sequence[str], say: Callable[[str], Any], *, model: str, batch_size: int = 16,
    recursive: bool = False, output: Path | None = None, resume: bool = False, workers: int | None = None,
    device: str | None = None, dtype: str | None = None, as_json: bool = False,
) -> bool:  # fmt: skip
    """How well texts fit pictures, videos and sounds, the best first: similarity, probability of a match, text; before
    them the name where it is not one file. Without a matching head only the similarity. Args, Returns: as `ask`."""
    if not texts:
        raise ValueError("no texts to compare with: mm match FILE TEXT...")
    with without_other_bars():
        loaded, processor = load_head(model, ("MMForImageTextRetrieval",), device=device, dtype=dtype)
    files, is_one = told_media(media, loaded.config.modalities, recursive), _is_one(media)
    embeds = loaded.encode([{"text": text} for text in texts], processor=processor)
    rows = processor(text=[composed(text) for text in texts], return_tensors="pt").to(loaded.device)

    def work(read: dict[str, torch.Tensor], numbers: list[int]) -> list[list[dict[str, Any]]]:
        similar = (loaded.embed_read(read) @ embeds.T).tolist()
        odds: list[list[float | None]] = [[None] * len(texts)] * len(numbers)
        if loaded.itm_head is not None:
            odds = _chances(loaded, read, rows, len(numbers)).tolist()
        return [_best_first(texts, *both) for both in zip(similar, odds, strict=True)]

    held = {"command": "match", "model": model, "texts": list(texts), "dtype": dtype}
    results, todo = open_results(output, held, resume, files)

    def tell(path: Path, found: list[dict[str, Any]]) -> None:
        for one in found:
            shown = [*([] if is_one else [path.name]), f"{one['similarity']:.4f}"]
            shown += [f"{one['match']:.4f}"] if "match" in one else []
            line = "\t".join(map(printable, [*shown, one["text"]]))
            say(json_line({"path": str(path), **one}) if as_json else line)

    batches = in_batches(todo, processor, loaded.config.modalities, work, batch_size, workers)
    return keep(results, todo, batches, lambda found: {"texts": found}, tell)


def _chances(model: Any, read: dict[str, torch.Tensor], rows: Any, count: int) -> torch.Tensor:
    """Probabilities (B, T) that T texts match B media."""
    texts = len(rows["input_ids"])
    media = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in read.items()
        if name not in _OF_TEXT
    }
    places = torch.arange(count, device=model.device).repeat_interleave(texts)
    of_texts = {name: rows[name].repeat(count, 1) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = model.match(**of_texts, context_index=places, **media).float()
    return logits.softmax(1)[:, 1].view(count, texts)


def _best_first(texts: Sequence[str], similar: list[float], chances: list[float | None]) -> list[dict[str, Any]]:
    found = [
        {"text": text, "similarity": one} | ({} if chance is None else {"match": chance})
        for text, one, chance in zip(texts, similar, chances, strict=True)
    ]
    return sorted(found, key=lambda one: -one.get("match", one["similarity"]))


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
