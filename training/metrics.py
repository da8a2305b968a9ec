"""What an evaluation computes for each task, with 95 % intervals over pictures.

    task              metrics
    caption           exact_match, chrf (0..100): the nearest of a picture's captions
    vqa               vqa_accuracy (the rule of the VQA challenge), exact_match (with the trained answer)
    retrieval         i2t_r1, i2t_r5, i2t_r10, t2i_r1, ...: recall both ways
    classify          accuracy, macro_f1; others where a row has several classes, or a number (class_metrics.py)
    pretrain          those of retrieval, if its losses name "itc"
    distill           those of the student's class

Each comes with `_low` and `_high`, unless there is but one picture. Intervals draw pictures, not rows: captions of one
picture are not independent.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction
from transformers.utils import logging

from ..configuration.settings import nearest
from ..data.dataset import MMDataset
from ..evaluation.answers import vqa_accuracy
from ..evaluation.captions import chrf, exact_match
from ..evaluation.retrieval import most_similar_texts, retrieval_scores
from ..modeling_mm.tasks.classification import MMForSequenceClassification
from ..modeling_mm.tasks.pretraining import MMForPreTraining
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..processing.call_options import check_choice
from ..processing.collator import MMDataCollator
from .class_metrics import Interval, score_classes
from .predictions import Embeddings, Question, Reader, Sample, classified, embedded, generated
from .samples import labelled_alike
from .shown import save_predictions

logger = logging.get_logger(__name__)

TASKS = ("caption", "vqa", "retrieval", "classify", "chat", "pretrain", "distill")
WRITTEN = ("caption", "vqa")
RECALLS = tuple(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))
RETRIEVAL = tuple(
    f"{way}_{name}" for way in ("i2t", "t2i") for name in ("r1", "r5", "r10", "medr", "map", "ndcg", "rprecision")
)
NAMES = {
    "caption": ("exact_match", "chrf"),
    "vqa": ("vqa_accuracy", "exact_match"),
    "retrieval": RECALLS,
    "classify": ("accuracy", "macro_f1", "micro_f1", "exact_match", "mean_absolute_error"),
}


def evaluate_task(
    task: str,
    model: Any,
    processor: Any,
    dataset: Any,
    *,
    collator: MMDataCollator | None = None,
    batch_size: int = 8,
    prefix: str = "eval",
    on_error: str = "raise",
    save_to: str | PathLike | None = None,
    label_names: Sequence[str] | None = None,
    **generation: Any,
) -> dict[str, float]:
    """The metrics of a task on a data set, each with its 95 % interval.

        {"eval_exact_match": 0.5, "eval_exact_match_low": 0.4, "eval_exact_match_high": 0.6, ..., "eval_samples": 100,
         "eval_media": 100}

    Texts are generated from only pictures and prompts; a picture is encoded once in its batch, whatever the number of
    its captions or questions.

    Args:
        dataset: samples for `MMDataCollator`, a list, Dataset or stream, read once in order.
        collator: that of the training, for its max_length and columns; without its augmentation and masks.
        on_error: "skip" leaves samples out whose media cannot be read, and counts them as `eval_skipped`.
        save_to: a folder for predictions.jsonl, which `write_report` shows.
        label_names: of classes; None: those of the data set, or of the model.
        generation: arguments of generate(), such as num_beams=3 and max_new_tokens=30.

    Raises: TypeError for a model of another task; ValueError for samples without a text or label to compare with.
    """
    if task == "classify":
        dataset = with_classes_of(model, dataset)
    reader = Reader(collator or MMDataCollator(processor), batch_size, on_error)
    found, questions = answer(task, model, processor, dataset, reader, label_names, **generation)
    if save_to is not None and questions:
        save_predictions(questions, dataset, reader.columns, save_to)
    for name, reason in reader.skipped:
        logger.warning(f"left out of the evaluation: {name}: {reason}")
    return {f"{prefix}_{name}": value for name, value in counted(found, questions, reader).items()}


def counted(found: dict[str, Interval], questions: list[Question], reader: Reader) -> dict[str, float]:
    """Flat metrics, and how many samples and media they are of."""
    if not questions:
        return {}
    counts = {"samples": len(questions), "media": len({question.group for question in questions})}
    counts |= {"skipped": len(reader.skipped)} if reader.skipped else {}
    return flat(found) | counts


def answer(
    task: str,
    model: Any,
    processor: Any,
    dataset: Any,
    reader: Reader,
    label_names: Any = None,
    every: bool = False,
    **generation: Any,
) -> tuple[dict[str, Interval], list[Question]]:
    """The metrics of a task with their intervals, and every question with its prediction and score.

    every: of embeddings and classes also those that training does not compute each time.
    """
    kind = kind_of(task, model)
    _check_model(task, kind, model)
    if kind is None:
        return {}, []
    if kind in WRITTEN:
        questions = generated(model, processor, dataset, reader, **generation)
        found = score_texts(kind, questions)
    elif generation:
        raise ValueError(f"{', '.join(generation)}: the task {task!r} writes no text")
    elif kind == "retrieval":
        embeddings = embedded(model, dataset, reader)
        found, questions = score_embeddings(embeddings, every), embeddings.pictures
    else:
        questions, logits = classified(model, dataset, reader)
        names = label_names or getattr(dataset, "label_names", None) or _names_of(model)
        found = score_classes(questions, logits, names, every, _is_ordered(model))
    return found, questions


def compute_metrics_for(
    task: str, processor: Any, dataset: Any = None, model: Any = None
) -> Callable[[EvalPrediction], dict[str, float]] | None:
    """compute_metrics for Trainer, of the same metrics with intervals; None for a task that has none.

    Args:
        dataset: the evaluation data of the trainer. With it all captions of a picture, all answers of a question and
            the pictures of rows are known; without it each row is compared with its own label.
        model: needed for "pretrain" and "distill", whose metrics follow from it.
    """
    kind = kind_of(task, model)
    makers = {"caption": _of_texts, "vqa": _of_texts, "retrieval": _of_embeddings, "classify": _of_logits}
    if kind is None:
        return None
    rows = None if dataset is None else _rows_of(dataset)
    return lambda prediction: flat(makers[kind](kind, processor, rows, prediction))


def with_classes_of(model: Any, data: Any) -> Any:
    """Data with class names, whose labels are the numbers that the model has for those names.

    Raises ValueError for a class that the model does not know, and for a model without names that has another number
    of classes.
    """
    if not isinstance(data, MMDataset) or data.label_names is None:
        return data
    names = _names_of(_bare(model)) or []
    if all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        if len(names) != len(data.label_names):
            has = "predicts a number" if len(names) == 1 else f"has {len(names)} classes without names"
            told = ", ".join(data.label_names[:20])
            raise ValueError(f"the labels of the data are the names {told}, and the model {has}: give numbers")
        return data
    return labelled_alike(data, names, "the model")


def _is_ordered(model: Any) -> bool:
    """Whether the classes of the model are in an order."""
    return _bare(model).config.classification_loss == "ordinal"


def _names_of(model: Any) -> list[str] | None:
    named = getattr(model.config, "id2label", None)
    return [named[number] for number in sorted(named)] if named else None


def check_metric(name: str, kind: str | None) -> None:
    """Raises ValueError for a metric that no evaluation of this kind of task computes; any loss passes."""
    accepted = ["loss", *NAMES.get(kind or "", ())]
    bare = name.removeprefix("eval_")
    if "loss" not in bare and bare.removesuffix("_low").removesuffix("_high") not in accepted:
        raise ValueError(
            f"metric_for_best_model={name!r}{nearest(bare, accepted)}; accepted are {', '.join(accepted)}"
        )


def kind_of(task: str, model: Any) -> str | None:
    """The task whose metrics this one has; None where there are none but the losses."""
    check_choice("task", task, TASKS)
    if task == "chat":  # what is a right answer of a conversation no number says
        return None
    if task not in ("pretrain", "distill"):
        return task
    if model is None:
        raise ValueError(f"the metrics of {task!r} follow from the model: pass model=")
    bare = _bare(model)
    if isinstance(bare, MMForSequenceClassification):
        return "classify"
    if _compares(bare):
        return "retrieval"
    return "caption" if task == "distill" and hasattr(bare, "generate") else None


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # under PEFT


def _compares(model: Any) -> bool:
    """Whether the model has embeddings of pictures and texts to compare."""
    pretrains = isinstance(model, MMForPreTraining) and "itc" in (model.config.pretraining_losses or {})
    return pretrains or isinstance(model, MMForImageTextRetrieval)


def _check_model(task: str, kind: str | None, model: Any) -> None:
    """Raises TypeError for a model that does not give what the metrics of the task compare."""
    bare = _bare(model)
    accepted = {
        "caption": (hasattr(bare, "generate"), "a model that writes, such as MMForConditionalGeneration"),
        "vqa": (hasattr(bare, "generate"), "a model that writes, such as MMForConditionalGeneration"),
        "retrieval": (_compares(bare), "MMForImageTextRetrieval, and MMForPreTraining with the loss 'itc'"),
        "classify": (isinstance(bare, MMForSequenceClassification), "MMForSequenceClassification"),
    }
    if kind is not None and not accepted[kind][0]:
        raise TypeError(f"task={task!r} cannot evaluate {type(bare).__name__}; accepted is {accepted[kind][1]}")


def flat(found: dict[str, Interval]) -> dict[str, float]:
    """{"name": value, "name_low": ..., "name_high": ...}, without bounds that nobody knows."""
    return {
        f"{name}{end}": number
        for name, interval in found.items()
        for end, number in zip(("", "_low", "_high"), interval, strict=True)
        if not (end and math.isnan(number))
    }


# ---- scores of what a model said; each question gets its own score, too ---------------------------------------------


def score_texts(kind: str, questions: list[Question]) -> dict[str, Interval]:
    told, groups = [question.prediction for question in questions], [question.group for question in questions]
    truth = [question.references or question.answers for question in questions]
    bare = sum(not references for references in truth)
    if bare:
        raise ValueError(f"{bare} of {len(questions)} samples have no text to compare with (suffix or answers)")
    matches = exact_match(told, truth)
    found, scores = {"exact_match": matches.interval(groups)}, matches.per_item
    if kind == "vqa":
        answers = vqa_accuracy(told, [question.answers or question.references for question in questions])
        found, scores = {"vqa_accuracy": answers.interval(groups)} | found, answers.per_item
    elif importlib.util.find_spec("sacrebleu") is not None:
        found["chrf"] = (near := chrf(told, truth)).interval(groups)
        scores = near.per_item / 100
    else:
        logger.warning_once("chrF is left out: pip install '.[eval]' brings sacrebleu, which counts it")
    for question, score in zip(questions, scores, strict=True):
        question.score = float(score)
    return found


def score_embeddings(embeddings: Embeddings, every: bool = False) -> dict[str, Interval]:
    """Recall both ways; `every`: rank, precision and nDCG too."""
    owners = embeddings.picture_of_text
    scores = retrieval_scores(embeddings.images, embeddings.texts, owners)
    taken, similar = (one.tolist() for one in most_similar_texts(embeddings.images, embeddings.texts))
    is_found = scores["i2t_r1"].per_item.tolist()
    for question, text, likeness, score in zip(embeddings.pictures, taken, similar, is_found, strict=True):
        question.prediction, question.confidence, question.score = embeddings.captions[text], likeness, score
    return {
        name: scores[name].interval(owners if name.startswith("t2i") else None)
        for name in (RETRIEVAL if every else RECALLS)
    }


# ---- for Trainer: rows of predictions and labels, in the order of the data set --------------------------------------


def _rows_of(dataset: Any) -> list[Any]:
    """The samples of the evaluation data, without reading their media."""
    held = getattr(dataset, "samples", dataset)
    if not hasattr(held, "__len__"):
        raise ValueError("compute_metrics_for(dataset=...) takes data of a known length; leave it out for a stream")
    return [held[number] for number in range(len(held))]


def _as_samples(rows: list[Any]) -> list[Any]:
    return [Sample(number, columns) for number, columns in enumerate(rows)]


def _of_texts(kind: str, processor: Any, rows: list[Any] | None, prediction: EvalPrediction) -> dict[str, Interval]:
    told, truth = _decoded(processor, prediction.predictions), _decoded(processor, prediction.label_ids)
    if rows is None:
        questions = [
            Question(str(row), str(row), row, [row], references=[own], prediction=text)
            for row, (text, own) in enumerate(zip(told, truth, strict=True))
        ]
        return score_texts(kind, questions)
    questions, start = [], 0
    for sample in _as_samples(rows):
        asked = sample.questions()
        for question in asked:
            place = start + question.rows[0]
            question.prediction = told[place] if place < len(told) else ""
        questions += asked
        start += sum(len(question.rows) for question in asked)
    _check_count("texts", len(told), start)
    return score_texts(kind, questions)


def _of_embeddings(kind: str, processor: Any, rows: list[Any] | None, prediction: EvalPrediction):
    *_, images, texts = list(prediction.predictions)  # itm_logits come before them, if at all
    counts = None if rows is None else [len(sample.captions()) for sample in _as_samples(rows)]
    if counts is None:
        if len(texts) % len(images):
            raise ValueError(
                f"{len(texts)} texts of {len(images)} pictures: pass dataset= to say which belong together"
            )
        counts = [len(texts) // len(images)] * len(images)
    _check_count("texts", len(texts), sum(counts))
    _check_count("pictures", len(images), len(counts))
    owner = np.repeat(np.arange(len(counts)), counts)
    pictures = [Question(str(number), str(number), number, [number]) for number in range(len(counts))]
    captions = [""] * len(owner)
    return score_embeddings(Embeddings(images[: len(counts)], texts[: len(owner)], owner.tolist(), pictures, captions))


def _of_logits(kind: str, processor: Any, rows: list[Any] | None, prediction: EvalPrediction) -> dict[str, Interval]:
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    labels = np.asarray(prediction.label_ids)
    groups = [str(row) for row in range(len(labels))]
    if rows is not None:
        groups = [
            sample.group()
            for sample in _as_samples(rows)
            for _ in range(max(1, len(sample.columns["text"]) if isinstance(sample.columns.get("text"), list) else 1))
        ]
        _check_count("rows", len(labels), len(groups))
    questions = [Question(group, group, row, [row], label=labels[row]) for row, group in enumerate(groups)]
    return score_classes(questions, np.asarray(logits)[: len(groups)])


def _decoded(processor: Any, ids: Any) -> list[str]:
    rows = ids[0] if isinstance(ids, tuple) else ids
    if np.asarray(rows).ndim != 2 or np.asarray(rows).dtype.kind not in "iu":
        raise ValueError(
            f"predictions {np.asarray(rows).dtype} {np.asarray(rows).shape} are no tokens: captions and answers are "
            "generated, by Seq2SeqTrainer or MMTrainer with predict_with_generate=True"
        )
    texts = processor.batch_decode(
        np.where(rows < 0, processor.tokenizer.pad_token_id, rows), skip_special_tokens=True
    )
    return [text.strip() for text in texts]


def _check_count(what: str, got: int, wanted: int) -> None:
    """Trainer's own evaluation of several processes may repeat the last rows, one process has as many as there are."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if got != wanted and not (several and got > wanted):
        raise ValueError(
            f"{got} {what} were predicted, and the evaluation data has {wanted}: it is another data set, or samples "
            "that share a picture were joined (mm.load_data gives one sample for each picture), or plain Trainer kept "
            "as many rows of the last batch as it has samples (take MMTrainer or Seq2SeqTrainer)"
        )
