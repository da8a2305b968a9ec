"""One served model: what it can do, and each piece of work as a job of its batcher.

request ── reading threads ── Read ── Batcher ── write | rank | classify | embed | transcribe | explain
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ..cli.explain import explained_inputs
from ..cli.transcribe import transcribe
from ..modeling_mm.core.modes import evaluating
from ..modeling_mm.tasks.classification import class_scores
from ..modeling_mm.tasks.contrastive_head import normalised
from ..modeling_mm.tasks.pipelines import composed
from ..processing.pipelines import LONGEST_SPEECH
from ..processing.sounds.load import load_sound
from .batching import Batcher, Job, Unit
from .reading import Reader
from .settings import ServeSettings
from .telemetry import Telemetry
from .tower_cache import TowerCache
from .writing import Written, samples, write

# What each class does, by the routes' names.
TASKS = {
    "MMForConditionalGeneration": ("write", "rank", "explain"),
    "MMForImageTextRetrieval": ("embed", "classify"),
    "MMForSequenceClassification": ("classify",),
    "MMForSpeechSeq2Seq": ("transcribe",),
}

KEPT_LABELS = 64  # lists of labels whose embeddings are kept


class Engine:
    """A model and its processor behind a batcher.

    Args:
        name: by which requests choose it. model: in evaluation, on its device.
    """

    def __init__(self, name: str, model: Any, processor: Any, settings: ServeSettings, telemetry: Telemetry):
        self.name, self.model, self.processor, self.settings = name, model, processor, settings
        self.tasks = TASKS.get(type(model).__name__, ())
        if not self.tasks:
            raise ValueError(f"{name!r}: a {type(model).__name__} is not served; accepted: {', '.join(TASKS)}")
        cache = None
        base = getattr(model, "model", None)
        if getattr(base, "vision_tower", None) is not None and _is_plain(processor):
            cache = TowerCache(base, settings.cache_bytes, telemetry.of_cache(name))
        self.reader = Reader(model, processor, cache)
        self.label_embeds: dict[tuple[tuple[str, ...], str], torch.Tensor] = {}
        self.threads = ThreadPoolExecutor(settings.reading_threads, thread_name_prefix="mm-read")
        self.batcher = Batcher(
            self._run, settings.max_batch, settings.batch_wait, settings.max_queue, telemetry.of_batches(name)
        )
        telemetry.watch_queue(name, lambda: self.batcher.waiting)

    def close(self, within: float | None = None) -> bool:
        """Ends after what waits is done, or when the seconds are over. Returns whether the model's thread is done."""
        ended = self.batcher.close(within)
        self.threads.shutdown(wait=within is None, cancel_futures=True)
        return ended

    # ---- what a request asks for -----------------------------------------------------------------------------------

    async def write(
        self, pictures: Sequence[bytes], text: str | None, settings: dict[str, Any],
        messages: list[dict[str, Any]] | None = None, emit: Callable[[str], None] | None = None,
        unit: Unit | None = None,
    ) -> Written:  # fmt: skip
        """What the model writes about pictures after a text, a question, or messages of a chat template."""
        if messages is not None:
            reading = functools.partial(self.reader.chat, pictures, messages)
        else:
            reading = functools.partial(self.reader.read, pictures, text)
        own = object() if samples(self.model, settings) else None  # who samples gets a batch of its own
        return await self._work("write", reading, tuple(sorted(_hashable(settings).items())), emit, own, unit=unit)

    async def rank(
        self, pictures: Sequence[bytes], text: str | None, answers: Sequence[str], unit: Unit | None = None
    ) -> list[tuple[str, float]]:
        """Answers, the likeliest first, with log-likelihoods per token."""
        reading = functools.partial(self.reader.read, pictures, text)
        return await self._work("rank", reading, tuple(answers), unit=unit)

    async def classify(
        self, pictures: Sequence[bytes], text: str | None, labels: Sequence[str] | None, template: str
    ) -> list[tuple[str, float]]:
        """Labels with scores, the best first: of a classification head its own, of a retrieval model those given."""
        reading = functools.partial(self.reader.read_for_head, pictures, text)
        return await self._work("classify", reading, (None if labels is None else tuple(labels), template))

    async def embed(
        self, picture: bytes | None, text: str | None, unit: Unit | None = None
    ) -> tuple[list[float], int]:
        """The embedding of a picture, a text, or both, and the tokens of the text."""
        vectors, tokens = [], 0
        if text is not None:
            vector, tokens = await self._work("embed", functools.partial(self.reader.whole_text, text), (), unit=unit)
            vectors.append(vector)
        if picture is not None:
            reading = functools.partial(self.reader.read, [picture])
            vectors.append((await self._work("embed", reading, (), unit=unit))[0])
        return normalised(torch.stack(vectors).sum(0)).tolist(), tokens

    async def transcribe(self, sound: bytes, options: dict[str, Any]) -> list[Any]:
        """Segments of a sound; options: of `mm.cli.transcribe.transcribe`."""
        rate = self.processor.feature_extractor.sampling_rate
        load = functools.partial(load_sound, sound, rate, source_rate=rate, max_seconds=LONGEST_SPEECH)
        samples = await asyncio.get_running_loop().run_in_executor(self.threads, load)
        return await self._work("transcribe", None, (), own=object(), given=(samples, options))

    async def explain(self, picture: bytes, text: str | None, method: str) -> dict[str, Any]:
        return await self._work("explain", None, (), own=object(), given=(picture, text, method))

    async def _work(
        self, task: str, reading: Any, settings: Any, emit=None, own: Any = None, given: Any = None,
        unit: Unit | None = None,
    ) -> Any:  # fmt: skip
        shape: Any = None
        if reading is not None:
            given = await asyncio.get_running_loop().run_in_executor(self.threads, reading)
            shape = given.shape
        return await self.batcher.submit(Job((task, settings, shape, own), given, emit, unit))

    # ---- in the model's thread -------------------------------------------------------------------------------------

    def _run(self, jobs: list[Job]) -> Sequence[Any]:
        task, settings, *_ = jobs[0].key  # pyright: ignore[reportGeneralTypeIssues]: a tuple of ours
        run = getattr(self, f"_{task}")
        with torch.no_grad(), evaluating(self.model):
            return run(jobs, settings)

    def _write(self, jobs: list[Job], settings: tuple) -> list[Written]:
        return write(self.reader, jobs, {k: list(v) if isinstance(v, tuple) else v for k, v in settings})

    def _rank(self, jobs: list[Job], answers: tuple[str, ...]) -> list[list[tuple[str, float]]]:
        tokenizer = self.processor.tokenizer
        eos = tokenizer.eos_token or tokenizer.sep_token or ""
        ends = tokenizer(
            [composed(answer) + eos for answer in answers], add_special_tokens=False, padding=True, return_tensors="pt"
        ).to(self.model.device)
        ranked = self.model.rank_answers(ends.input_ids, ends.attention_mask, **self._inputs(jobs))
        return [
            [(answers[place], scores[place]) for place in order]
            for order, scores in zip(ranked.indices.tolist(), ranked.scores.tolist(), strict=True)
        ]

    def _classify(self, jobs: list[Job], settings: tuple) -> list[list[tuple[str, float]]]:
        labels, template = settings
        inputs = self._inputs(jobs)
        if labels is None:
            names: Any = self.model.config.id2label
            scores = class_scores(self.model.config, self.model(**inputs).logits.float())
            labels = [names[number] for number in range(scores.shape[1])]
        else:
            scores = self.model.label_scores(self._image_embeds(inputs), self._label_embeds(labels, template))
        return [sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1]) for row in scores.tolist()]

    def _label_embeds(self, labels: tuple[str, ...], template: str) -> torch.Tensor:
        if (labels, template) not in self.label_embeds:
            while len(self.label_embeds) >= KEPT_LABELS:
                del self.label_embeds[next(iter(self.label_embeds))]
            self.label_embeds[labels, template] = self.model.encode_labels(
                labels, template, processor=self.processor, truncation=False
            )
        return self.label_embeds[labels, template]

    def _embed(self, jobs: list[Job], settings: tuple) -> list[tuple[torch.Tensor, int]]:
        inputs = self._inputs(jobs)
        if "input_ids" in inputs:
            found = self.model.encode_text(inputs["input_ids"], attention_mask=inputs["attention_mask"])
        else:
            found = self._image_embeds(inputs)
        tokens = [sum(int(value.sum()) for value in job.given.rows.values() if value.max() <= 1) for job in jobs]
        return list(zip(found.float().cpu(), tokens, strict=True))

    def _image_embeds(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        media = {name: value for name, value in inputs.items() if name.startswith(("visual", "pixel"))}
        return normalised(self.model.itc_head.of_context(self.model._context(**media)))

    def _transcribe(self, jobs: list[Job], settings: tuple) -> list[list[Any]]:
        (job,) = jobs
        samples, options = job.given
        found = []
        for segment in transcribe([samples], self.model, self.processor, **options):
            if job.left.is_set():
                break
            found.append(segment)
            if job.emit is not None:
                job.emit(segment.text)
        return [found]

    def _explain(self, jobs: list[Job], settings: tuple) -> list[dict[str, Any]]:
        (job,) = jobs
        picture, text, method = job.given
        inputs, row = explained_inputs(self.model, self.processor, picture, text)
        tokens: Any = self.model.generate(**inputs, return_dict_in_generate=True) if row is None else row
        with torch.enable_grad():
            (found, *_) = self.model.explain(
                inputs, tokens, processor=self.processor, pictures=[picture], method=method
            )
        return [found.to_dict()]

    def _inputs(self, jobs: list[Job]) -> dict[str, torch.Tensor]:
        return self.reader.inputs([job.given for job in jobs])


def _is_plain(processor: Any) -> bool:
    """Whether a picture's pixels depend on nothing else, and have one size and no mask of patches."""
    size = getattr(processor.image_processor, "size", None)
    return bool(size) and set(dict(size)) == {"height", "width"}


def _hashable(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
