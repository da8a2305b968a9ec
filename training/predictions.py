"""What a model says about the samples of a data set: texts, embeddings or classes.

R rows, B pictures, P projection_dim.

    samples ── a question for each different prompt of a picture ── generate() from the prompt alone ── texts
            ── pictures and their texts ── forward ── embeddings
            ── forward ── logits

A picture that has several captions or questions is encoded once in a batch, and no batch ends within a sample.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.sources import MEDIA, media_names
from ..modeling_mm.core.modes import evaluating
from ..processing.batches import media_key, sources_of
from ..processing.collator import SAMPLE_COLUMNS, MMDataCollator
from ..processing.columns import check_columns, renamed
from ..processing.images.limits import MediaDecodeError, check_count
from ..processing.reading import beside_workers, default_workers, made_ahead

SORTED_AT_ONCE = 16  # batches of samples that are sorted by length together
NOT_OF_FORWARD = ("labels", "lm_targets", "return_loss", "return_logits")


@dataclass
class Question:
    """What is asked about the media of a sample, and what people answered."""

    id: str
    group: str  # names the media: equal for all rows of a picture
    sample: int  # its number in the data set
    rows: list[int]  # which rows of the sample it stands for
    text: str | None = None
    context_text: str | None = None
    references: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)  # of VQA, one for each person
    prediction: str = ""
    score: float = float("nan")  # how right the prediction is, 0 to 1
    confidence: float = float("nan")  # of a class or a token (the geometric mean) its probability; a similarity
    label: Any = None
    file: str = ""  # the names of its files, without folders; of media without a name the ids of its rows


@dataclass
class Sample:
    number: int
    columns: Mapping[str, Any]

    def group(self) -> str:
        """The name of its media: paths and bytes are the same wherever they occur, other objects in one sample."""
        keys = [media_key(source) for found in sources_of(self.number, self.columns).values() for source in found]
        if not keys or any(kind == "object" for kind, _ in keys):
            return f"sample {self.number}"
        return hashlib.sha256(repr(keys).encode("utf-8", "surrogateescape")).hexdigest()

    def name(self) -> str:
        named = self.columns.get("id")
        paths = [source for source in media_names(self.columns) if isinstance(source, str)]
        return str(named) if named is not None else paths[0] if paths else f"sample {self.number}"

    def file(self) -> str:
        """What a reader calls it: the names of its files, else the ids that its rows had."""
        named = [source for source in media_names(self.columns) if isinstance(source, str)]
        short = [source if source.startswith("data:") else os.path.basename(source) for source in named]
        kept = [name[:80] for name in short] or listed(self.columns.get("row_ids"))
        return ", ".join(dict.fromkeys(map(str, kept[:3])))

    def captions(self) -> list[str]:
        """Its texts, for retrieval: those under text, or under suffix."""
        return listed(self.columns.get("text")) or listed(self.columns.get("suffix"))

    def questions(self) -> list[Question]:
        """One for each different prompt."""
        texts, contexts = listed(self.columns.get("text")), listed(self.columns.get("context_text"))
        suffixes, answers = listed(self.columns.get("suffix")), listed(self.columns.get("answers"))
        count = max(len(texts), len(contexts), len(suffixes), 1)
        if answers and not isinstance(answers[0], (list, tuple)):
            answers = [answers]
        group, found = self.group(), {}
        for row in range(count):
            prompt = _of_row(texts, row), _of_row(contexts, row)
            if prompt not in found:
                found[prompt] = Question(self.name(), group, self.number, [], *prompt, file=self.file())
            question = found[prompt]
            question.rows.append(row)
            question.references += [suffixes[row]] if row < len(suffixes) else []
            question.answers += list(answers[row]) if row < len(answers) else []
        return list(found.values())


def listed(value: Any) -> list:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _of_row(values: list, row: int) -> Any:
    return None if not values else values[row] if len(values) > 1 else values[0]


@dataclass
class Reader:
    """Walks through a data set, batch by batch, and leaves out (or raises) what cannot be read.

    Samples of similar length share a batch; what is made of them comes back in the order of the data set. Under
    torch.distributed each process reads every n-th sample, and all get the answers of all.

    skipped: (file or id, reason) of each sample that was left out. journal: keeps each batch in a file as it is done,
    and holds what an earlier run had done. share: the number of this process, and of all.
    """

    collator: MMDataCollator
    batch_size: int = 8
    on_error: str = "raise"
    skipped: list[tuple[str, str]] = field(default_factory=list)
    journal: Any = None
    share: tuple[int, int] = (0, 1)
    progress: bool = False
    workers: int | None = 0  # processes that read ahead; None: two for many samples
    keeps_confidence: bool = False  # of texts, too, which takes the scores of every step

    def __post_init__(self):
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f'on_error={self.on_error!r}; accepted are "raise" and "skip"')
        check_count("batch_size", self.batch_size, least=1)
        check_count("workers", self.workers, none=True)
        self.columns = check_columns(self.collator.columns, (*SAMPLE_COLUMNS, "id"))
        # what is evaluated is whole: nothing augmented, nothing masked
        plain = {"augment": None, "mlm_probability": 0.0, "mim_ratio": 0.0, "masked_lm": False, "return_loss": False}
        self.collate = replace(self.collator, columns=None, on_error="raise", **plain)
        self.collate_prompts = replace(self.collate, mode="generate")

    def each(
        self, dataset: Iterable, read: Callable[[list[Sample]], Any], run: Callable[[list[Sample], Any], list]
    ) -> list:
        """What `run` makes of samples and the batch that `read` makes of them, all together, in the order of the data
        set."""
        journal = self.journal
        found: list[tuple[int, list]] = [] if journal is None else journal.answers()
        self.skipped += [] if journal is None else journal.skipped
        done = set() if journal is None else journal.done
        total = len(dataset) if hasattr(dataset, "__len__") else None  # pyright: ignore[reportArgumentType]: has it
        bar = tqdm(total=total, unit=" samples", disable=None if self.progress else True)
        bar.update(len(done) * self.share[1])
        workers = default_workers(total or 0) if self.workers is None else self.workers
        for batch, made in made_ahead(self._batches(dataset, done), read, workers):
            with beside_workers(workers):
                for samples, answers in self._answered(batch, made, read, run):
                    numbered = _by_sample(samples, answers)
                    found += numbered
                    if journal is not None:
                        journal.add(numbered)
            bar.update(len(batch) * self.share[1])
        bar.close()
        found = self._of_all(found)
        if not found:
            raise ValueError("there is nothing to evaluate: the data set is empty, or none of its samples can be read")
        return [item for _, items in sorted(found, key=lambda pair: pair[0]) for item in items]

    def _answered(
        self, batch: list[Sample], made: Callable[[], Any], read: Callable, run: Callable
    ) -> Iterator[tuple[list[Sample], list]]:
        """The batch with what was made of it; where one cannot be read, each of the others in a batch of one."""
        try:
            yield batch, run(batch, made())
            return
        except MediaDecodeError:
            if self.on_error == "raise":
                raise
        for sample in batch:
            try:
                yield [sample], run([sample], read([sample]))
            except MediaDecodeError as fault:
                self.skipped.append((sample.file() or sample.name(), fault.reason))
                if self.journal is not None:
                    self.journal.skip(sample, fault.reason)

    def _of_all(self, found: list[tuple[int, list]]) -> list[tuple[int, list]]:
        """The answers of every process, and what each left out."""
        if self.share[1] == 1:
            return found
        everyone: list[Any] = [None] * self.share[1]
        torch.distributed.all_gather_object(everyone, (found, self.skipped))
        self.skipped = [one for _, skipped in everyone for one in skipped]
        return [one for answers, _ in everyone for one in answers]

    def read(self, samples: list[Sample]) -> Mapping[str, Any]:
        """A batch with all columns."""
        return self.collate([sample.columns for sample in samples])

    def samples(self, dataset: Iterable) -> Iterator[Sample]:
        for number, columns in enumerate(_in_order(dataset)):
            yield Sample(number, renamed([columns], self.columns)[0])

    def _batches(self, dataset: Iterable, done: set[int] = frozenset()) -> Iterator[list[Sample]]:  # pyright: ignore[reportArgumentType]: only read
        rank, processes = self.share
        mine = (one for one in self.samples(dataset) if one.number % processes == rank and one.number not in done)
        while window := list(islice(mine, SORTED_AT_ONCE * self.batch_size)):
            held: list[Sample] = []
            rows = 0
            for sample in sorted(window, key=_longest_text):
                own = max(1, *(len(listed(sample.columns.get(name))) for name in ("text", "suffix", "context_text")))
                if held and rows + own > self.batch_size:
                    yield held
                    held, rows = [], 0
                held.append(sample)
                rows += own
            if held:
                yield held


def _longest_text(sample: Sample) -> int:
    texts = [text for name in ("text", "context_text", "suffix") for text in listed(sample.columns.get(name))]
    return max((len(text) for text in texts if isinstance(text, str)), default=0)


def _by_sample(samples: list[Sample], answers: list) -> list[tuple[int, list]]:
    """(number of the sample, what was made of it), for each."""
    own: dict[int, list] = {sample.number: [] for sample in samples}
    for answer in answers:
        first = answer[0] if isinstance(answer, tuple) else answer
        own[first.number if isinstance(first, Sample) else first.sample].append(answer)
    return list(own.items())


def _in_order(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """Every sample once; a list or Dataset that counts from 0 may have no end for `iter`."""
    if isinstance(dataset, Mapping):
        raise TypeError(
            f"the data set is one {type(dataset).__name__}; accepted are a list of samples, a Dataset or a stream"
        )
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        return (dataset[number] for number in range(len(dataset)))
    return iter(dataset)


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """The model without dropout and gradients, and afterwards as it was."""
    with evaluating(model), torch.no_grad():
        yield


def _on(model: Any, batch: Mapping[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    weight = next(one for one in model.parameters() if one.is_floating_point())

    def moved(value: Any) -> Any:
        if not torch.is_tensor(value):
            return value
        return value.to(weight.device, weight.dtype if value.is_floating_point() else None)

    return {name: moved(value) for name, value in batch.items() if name not in without}


def generated(model: Any, processor: Any, dataset: Iterable, reader: Reader, **generation: Any) -> list[Question]:
    """Questions with the texts that the model writes, from only pictures and prompts."""

    def asked_of(samples: list[Sample]) -> list[tuple[Question, Sample]]:
        return [(question, sample) for sample in samples for question in sample.questions()]

    def read(samples: list[Sample]) -> Mapping[str, Any]:
        return reader.collate_prompts([_prompt(*pair) for pair in asked_of(samples)])

    def run(samples: list[Sample], batch: Mapping[str, Any]) -> list[Question]:
        asked, batch = asked_of(samples), _on(model, batch)
        # Without a prompt a text opens with bos; Whisper's rules give it without what they put before it.
        has_rules = getattr(model, "has_rules", False)
        opens = 0 if has_rules else 1
        start = batch["input_ids"].shape[1] if "input_ids" in batch else opens
        sure = [float("nan")] * len(asked)
        if reader.keeps_confidence and not has_rules:  # whose scores are those of the last window only
            output = model.generate(**batch, **generation, return_dict_in_generate=True, output_scores=True)
            written, sure = output.sequences, _confidences(model, output, start)
        else:
            written = model.generate(**batch, **generation)
        texts = processor.batch_decode(written[:, start:], skip_special_tokens=True)
        for (question, _), text, confidence in zip(asked, texts, sure, strict=True):
            question.prediction, question.confidence = text.strip(), confidence
        return [question for question, _ in asked]

    with answering(model):
        return reader.each(dataset, read, run)


def _confidences(model: Any, output: Any, start: int) -> list[float]:
    """The geometric mean of the probabilities of each text's tokens, its end among them."""
    beams = getattr(output, "beam_indices", None)
    logs = model.compute_transition_scores(output.sequences, output.scores, beams, normalize_logits=True)
    tokens = output.sequences[:, start : start + logs.shape[1]]
    ends = torch.as_tensor(model.generation_config.eos_token_id, device=tokens.device).reshape(-1)
    is_end = torch.isin(tokens, ends).long()
    is_told = is_end.cumsum(1) - is_end == 0
    logs = logs[:, : tokens.shape[1]].float().masked_fill(~is_told, 0)
    return (logs.sum(1) / is_told.sum(1).clamp(min=1)).exp().tolist()


def _prompt(question: Question, sample: Sample) -> dict[str, Any]:
    media = {name: value for name, value in sample.columns.items() if name in MEDIA}
    texts = {"text": question.text, "context_text": question.context_text}
    return media | {name: text for name, text in texts.items() if text is not None}


@dataclass
class Embeddings:
    """images (B, P), texts (R, P), the number of its picture for each text, and a Question for each picture."""

    images: np.ndarray
    texts: np.ndarray
    picture_of_text: list[int]
    pictures: list[Question]
    captions: list[str]


def embedded(model: Any, dataset: Iterable, reader: Reader) -> Embeddings:
    """Every picture once, whatever the number of samples and captions that it has."""

    def run(samples: list[Sample], batch: Mapping[str, Any]) -> list[tuple[Sample, np.ndarray, np.ndarray]]:
        batch = _on(model, batch, NOT_OF_FORWARD)
        output = model(**batch, return_loss=False)
        counts = [len(sample.captions()) for sample in samples]
        texts = output.text_embeds.float().cpu().numpy()
        images = output.image_embeds.float().cpu().numpy()
        index = batch.get("context_index")
        owners = np.arange(len(texts)) // max(1, len(texts) // len(images)) if index is None else index.cpu().numpy()
        starts = np.cumsum([0, *counts])
        if starts[-1] != len(texts):
            raise ValueError(f"{len(texts)} rows of text for {starts[-1]} captions: each sample has a text or more")
        bounds = zip(samples, starts[:-1], starts[1:], strict=True)
        return [(sample, images[owners[first]], texts[first:end]) for sample, first, end in bounds]

    with answering(model):
        found = reader.each(dataset, reader.read, run)
    numbers: dict[str, int] = {}
    images, texts, owner, pictures, captions = [], [], [], [], []
    for sample, image, own in found:
        group = sample.group()
        if group not in numbers:
            numbers[group] = len(numbers)
            images.append(image)
            pictures.append(Question(sample.name(), group, sample.number, [0], file=sample.file()))
        pictures[numbers[group]].references += sample.captions()
        texts.append(own)
        owner += [numbers[group]] * len(own)
        captions += sample.captions()
    return Embeddings(np.stack(images), np.concatenate(texts), owner, pictures, captions)


def classified(model: Any, dataset: Iterable, reader: Reader) -> tuple[list[Question], np.ndarray]:
    """A Question for each row, with its label, and the logits (R, L)."""

    def run(samples: list[Sample], batch: Mapping[str, Any]) -> list[tuple[Question, np.ndarray]]:
        if "labels" not in batch:
            held = sorted(set().union(*(sample.columns for sample in samples)))
            raise ValueError(f"the samples have no label to compare with; they hold {held}")
        logits = model(**_on(model, batch, NOT_OF_FORWARD)).logits.float().cpu().numpy()
        rows = [
            Question(sample.name(), sample.group(), sample.number, [row], _of_row(texts, row), file=sample.file())
            for sample in samples
            for texts in [listed(sample.columns.get("text"))]
            for row in range(max(1, len(texts)))
        ]
        for question, label in zip(rows, batch["labels"].numpy(), strict=True):
            question.label = label
        return list(zip(rows, logits, strict=True))

    with answering(model):
        found = reader.each(dataset, reader.read, run)
    return [question for question, _ in found], np.stack([logits for _, logits in found])
