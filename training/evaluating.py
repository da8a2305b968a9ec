"""mm.evaluate: a saved model on somebody's data, to metrics with intervals, files and a page; `mm evaluate`.

evaluation.json     the metrics, what was evaluated on what, versions
predictions.jsonl   of each question what the model said, what people said, and its score
evaluation.html     a page of it, with the best and the worst
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..evaluation.captions import CAPTION_METRICS, caption_scores
from ..evaluation.scores import mean_score
from ..evaluation.significance import Comparison, compare, comparison_table
from ..evaluation.speech import cer, wer
from ..processing.images.limits import check_switch
from .asking import CARD, ask, check_card, name_of
from .card import is_ours, sealed
from .curves import metrics_in
from .metrics import counted
from .predictions import Question, Reader
from .provenance import versions, without_places
from .report import evaluation_page, interval_of, number
from .shown import NAME as PREDICTIONS
from .shown import read_predictions, save_predictions

RESULT, PAGE = "evaluation.json", "evaluation.html"
# What the score of a single question is, by task.
PER_ITEM = {"caption": "chrf", "vqa": "vqa_accuracy", "retrieval": "i2t_r1", "classify": "accuracy"}


@dataclass
class Evaluation:
    """What `mm.evaluate` found; str() is a table.

    metrics: {"exact_match": 0.5, "exact_match_low": 0.4, "exact_match_high": 0.6, ..., "samples": 100, "media": 90}.
    questions: of each what the model said and its score. skipped: (id, reason) of what could not be read.
    notes: metrics that were left out, and why.
    comparison: with the other evaluation, if one was given. files: those that were written.
    """

    task: str
    model: str
    data: str
    metrics: dict[str, float]
    questions: list[Question] = field(repr=False, default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    comparison: Comparison | None = None
    files: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        names = metrics_in({f"eval_{name}": value for name, value in self.metrics.items()})
        rows = [
            (name.removeprefix("eval_"), number(self.metrics[name.removeprefix("eval_")]),
             interval_of(self.metrics, name.removeprefix("eval_"))) for name in names
        ]  # fmt: skip
        width = max([len(name) for name, *_ in rows], default=0)
        lines = [f"{self.task}: {self.model} on {self.data}"]
        lines += [f"{name:<{width}}  {value:>8}   {bounds}" for name, value, bounds in rows]
        told = f"{self.metrics.get('samples', 0)} questions about {self.metrics.get('media', 0)} media"
        lines.append(f"{told}; 95 % bootstrap intervals over media")
        lines += self.notes
        lines += [f"left out: {name}: {reason}" for name, reason in self.skipped]
        if self.comparison is not None:
            lines += [
                "",
                "and the other evaluation, on the same questions:",
                comparison_table([self.comparison]),
            ]
        return "\n".join(lines)


def evaluate(
    model: Any,
    data: Any,
    task: str | None = None,
    *,
    processor: Any = None,
    output: str | os.PathLike | None = None,
    media: str | os.PathLike | None = None,
    format: str = "auto",
    split: str | None = None,
    annotations: str | os.PathLike | None = None,
    columns: Mapping[str, str | None] | None = None,
    batch_size: int = 8,
    workers: int | None = 0,
    against: str | os.PathLike | None = None,
    update_card: bool = False,
    resume: bool = True,
    progress: bool = True,
    device: str | None = None,
    dtype: str | None = None,
    **generation: Any,
) -> Evaluation:
    """The metrics of a model on data, each with its 95 % interval over pictures.

    Batches are of samples of similar length; a picture is encoded once in its batch. With `output` what is answered is
    kept as it comes: the same call continues after a kill without answering anything twice, and then writes its files.
    Under torchrun each process reads its share, and the numbers are those of one process.

    Args:
        model: a folder, a Hub id or a model; of the class that the task needs.
        data: what `load_data` reads, or samples that it gave. media, format, split, annotations, columns: as there.
        task: "caption", "vqa", "retrieval" or "classify"; None: by the model's class, "caption" where it writes; of
            an MMForPreTraining by its losses, and what else it was trained for is told.
        processor: None: that of the model's folder.
        output: a folder for the files; made if there is none.
        against: the output folder of another evaluation of the same questions: which model is better, is that sure?
        update_card: put the metrics into the README.md of the model's folder, too.
        workers: processes that read ahead; 0: none; None: two for many samples.
        resume: False begins anew.
        device, dtype: such as "cuda:1" and "bfloat16", of a model that is loaded here; None: a GPU if there is one,
            and the type of the weights.
        generation: of generate(), such as num_beams=3, max_new_tokens=30.

    Raises: ValueError, TypeError or FileNotFoundError in words: no such model or data, another task, samples that lack
        what the task compares. Media that cannot be read are left out and listed.
    """
    check_switch("update_card", update_card)
    name = name_of(model)
    theirs = None if against is None else _others(against)  # what is missing is told before anything is answered
    if update_card:
        check_card(name)
    reading = {"media": media, "split": split, "annotations": annotations, "columns": columns}
    asked = ask(
        model, data, task, processor, output, format, reading, batch_size, workers, resume, progress,
        generation=generation, device=device, dtype=dtype,
    )  # fmt: skip
    questions, task, notes = asked.questions, asked.task, []
    if task == "caption":
        more, notes = (_speech_metrics if asked.is_speech else _caption_metrics)(questions)
        asked.found |= more
    metrics = counted(asked.found, questions, asked.reader)
    result = Evaluation(task, name, asked.told["data"], metrics, questions, asked.reader.skipped, asked.told)
    if asked.others:
        notes.append(f"the model was trained for {' and '.join(asked.others)}, too: --task evaluates that")
    result.notes = notes
    if theirs is not None:
        result.comparison = _compared(result, theirs, str(against), asked.is_speech)
    if output is not None and asked.is_first:
        _write(result, asked.samples, asked.reader, Path(output))
    if update_card and asked.is_first:
        result.files.append(_update_card(Path(name), result))
    asked.end()
    return result


def _caption_metrics(questions: list[Question]) -> tuple[dict[str, tuple[float, float, float]], list[str]]:
    """Those of captions that training does not compute each time, and a line for each that is left out."""
    groups = [question.group for question in questions]
    needed = {"meteor": "snowballstemmer", "chrf": "sacrebleu"}
    absent = [name for name in CAPTION_METRICS if find_spec(needed.get(name, "numpy")) is None]
    notes = [f"{name} is left out: pip install '.[eval]' brings {needed[name]}" for name in absent]
    names = [name for name in CAPTION_METRICS if name not in absent]
    if len(set(groups)) < 2:
        names = [name for name in names if not name.startswith("cider")]
        notes.append("CIDEr is left out: of one picture nobody knows which words are rare")
    scores = caption_scores(
        [question.prediction for question in questions], [question.references for question in questions], names
    )
    return {name: score.interval(groups) for name, score in scores.items()}, notes


def _speech_metrics(questions: list[Question]) -> tuple[dict[str, tuple[float, float, float]], list[str]]:
    """Error rates of transcripts, and why there are none. The score of each becomes its share of right words."""
    if find_spec("jiwer") is None:
        return {}, ["wer and cer are left out: pip install '.[eval]' brings jiwer"]
    told = [question.prediction for question in questions]
    truth, groups = [question.references for question in questions], [question.group for question in questions]
    words, letters = wer(told, truth), cer(told, truth)
    for question, (errors, length, *_) in zip(questions, words.statistics, strict=True):
        question.score = max(0.0, 1 - errors / length) if length else float(not errors)
    return {score.name: score.interval(groups) for score in (words, letters)}, []


def _others(against: str | os.PathLike) -> list[dict[str, Any]]:
    """The answers of another evaluation that have a score."""
    theirs = [line for line in read_predictions(against) if "score" in line]
    if not theirs:
        raise ValueError(f"against={str(against)!r} holds no {PREDICTIONS} with scores; give an evaluation's output")
    return theirs


def _compared(result: Evaluation, theirs: list[dict[str, Any]], against: str, is_speech: bool) -> Comparison:
    """The score of each question and that of another evaluation; of transcripts the word error rate of all."""
    asked = [(question.id, question.context_text or question.text) for question in result.questions]
    other = {(line["id"], line.get("prompt")): line for line in theirs}
    if len(other) != len(theirs) or set(other) != set(asked):
        raise ValueError(f"against={against!r} is of {len(theirs)} other questions; both must be of the same data")
    groups = [question.group for question in result.questions]
    if is_speech and find_spec("jiwer") is not None:
        truth = [question.references for question in result.questions]
        told = [question.prediction for question in result.questions]
        return compare(wer(told, truth), wer([other[key].get("prediction", "") for key in asked], truth), groups)
    name = PER_ITEM[result.task]
    if name == "chrf" and find_spec("sacrebleu") is None:
        name = "exact_match"
    if result.task == "classify" and "accuracy" not in result.metrics:  # a number: 1 / (1 + its error)
        name = "closeness" if "mean_absolute_error" in result.metrics else "sample_f1"
    ours = mean_score(name, [round(question.score, 6) for question in result.questions])
    return compare(ours, mean_score(name, [other[key]["score"] for key in asked]), groups)


def _write(result: Evaluation, samples: Any, reader: Reader, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    predictions = save_predictions(result.questions, samples, reader.columns, folder, best=True)
    told = {**without_places(result.settings), "versions": versions()}
    held = {"metrics": result.metrics, **told, "left_out": [list(one) for one in result.skipped]}
    (folder / RESULT).write_text(json.dumps(held, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = [*read_predictions(folder), *({"id": name, "left_out": reason} for name, reason in result.skipped)]
    metrics = {f"eval_{name}": value for name, value in result.metrics.items()}
    page = evaluation_page(f"{result.task}: {Path(result.model).name}", metrics, lines, result.settings)
    (folder / PAGE).write_text(page, encoding="utf-8")
    result.files += [folder / RESULT, predictions, folder / PAGE]


def _update_card(folder: Path, result: Evaluation) -> Path:
    """The metrics in the metadata of a model's README.md, in place of those of the same task and data."""
    from huggingface_hub import EvalResult, ModelCard

    path = folder / CARD
    text = path.read_text(encoding="utf-8")
    was_ours = is_ours(text)
    card = ModelCard(text)
    held: Any = card.data
    data = Path(result.data).name
    task = {"caption": "image-to-text", "vqa": "visual-question-answering", "retrieval": "image-text-retrieval"}.get(
        result.task, "image-classification"
    )
    names = [name for name in result.metrics if f"{name}_low" in result.metrics]
    new = [
        EvalResult(task, data, data, name, result.metrics[name], dataset_split=result.settings.get("split"))
        for name in names
    ]
    kept = [one for one in held.eval_results or [] if (one.task_type, one.dataset_name) != (task, data)]
    held.model_name = held.model_name or folder.name
    held.eval_results = [*kept, *new]
    written = str(card)
    written = sealed(written.rsplit("\n<!-- written by mm train", 1)[0]) if was_ours else written
    path.write_text(written, encoding="utf-8")
    return path


def print_evaluation(say: Callable[[str], object], as_json: bool, *args: Any, **options: Any) -> bool:
    """`mm evaluate`: the table, or the metrics as JSON, and where the files are. Returns: whether all media could be
    read; True in several processes, which torchrun would end."""
    result = evaluate(*args, **options)
    if int(os.environ.get("RANK", 0)) == 0:
        for line in [json.dumps(result.metrics)] if as_json else str(result).split("\n"):
            say(line)
        if result.files and not as_json:
            say(f"written: {', '.join(str(path) for path in result.files)}")
    return not result.skipped or int(os.environ.get("WORLD_SIZE", 1)) > 1
