"""The tasks of `mm train`: the class that each trains, and what its samples must hold.

task       class                        a sample
caption    MMForConditionalGeneration   image, suffix; a MMForSpeechSeq2Seq stays one: audio, suffix
vqa        MMForConditionalGeneration   image, text (the question), suffix (the answer)
retrieval  MMForImageTextRetrieval      image, suffix
classify   MMForSequenceClassification  image and/or text, label
chat       MMForConditionalGeneration   chat, and the image or images in it
pretrain   MMForPreTraining             image, suffix
distill    MMForConditionalGeneration   as caption or vqa, and a teacher
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from ..data.sources import MEDIA
from ..modeling_mm.tasks.classification import MMForSequenceClassification
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.pretraining import MMForPreTraining
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..processing.collator import SAMPLE_COLUMNS
from .tower_features import base_model

LOOKED_AT = 1000  # samples
TABLES = ("jsonl", "ndjson", "json", "csv", "tsv", "txt", "parquet")


@dataclass(frozen=True)
class Task:
    """model_class; needs: columns that every sample has; writes: whether generated text is evaluated; whole_texts:
    whether a text is read to its end, and so closed with eos."""

    name: str
    model_class: Any
    needs: tuple[str, ...]
    writes: bool = False
    whole_texts: bool = False

    def sample(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """A sample as the collator reads it for this task. ValueError for one that lacks a column.

        A text without a suffix is what is learned, unless the task asks for both: so captions are called in the
        metadata.jsonl of a folder.
        """
        if "suffix" in self.needs and "text" not in self.needs and sample.get("suffix") is None:
            sample = {("suffix" if name == "text" else name): value for name, value in sample.items()
                      if name != "suffix"}  # fmt: skip
        lacking = [name for name in self.needs if sample.get(name) is None]
        if lacking:
            held = [name for name, value in sample.items() if value is not None]
            if "chat" in held:
                raise ValueError(
                    f"the task {self.name} needs {' and '.join(lacking)}; the sample {sample.get('id')!r} is a "
                    "conversation, which only the task chat reads, and which is trained and not evaluated. To compare "
                    "answers, write each question as text and its answer as suffix, and take the task vqa"
                )
            others = [name for name in held if name not in (*SAMPLE_COLUMNS, "id", "row_ids", "answers")]
            raise ValueError(
                f"the task {self.name} needs {' and '.join(lacking)}; the sample {sample.get('id')!r} holds "
                f"{', '.join(held)}. Say which column that is, for instance --columns "
                f"{others[0] if others else 'caption'}={lacking[0]}"
            )
        if not any(name in sample for name in (*MEDIA, "text", "context_text")) and self.name == "classify":
            raise ValueError(
                f"the sample {sample.get('id')!r} holds {', '.join(sample)}: no picture, video, sound or text that "
                "could be classified. Numbers (tabular data, time series) are no modality of MM: write them as text"
            )
        made = dict(sample)
        if self.name == "retrieval":
            if made.get("text") is not None:
                raise ValueError("retrieval compares pictures with suffix; leave text out: columns text=")
            made["text"] = made.pop("suffix")
        if self.name == "classify":
            made.pop("suffix", None)
        else:
            made.pop("label", None)
        return made


GENERATION = MMForConditionalGeneration
KINDS = {
    task.name: task
    for task in (
        Task("caption", GENERATION, ("suffix",), writes=True),
        Task("vqa", GENERATION, ("text", "suffix"), writes=True),
        Task("retrieval", MMForImageTextRetrieval, ("suffix",), whole_texts=True),
        Task("classify", MMForSequenceClassification, ("label",), whole_texts=True),
        Task("chat", GENERATION, ("chat",)),
        Task("pretrain", MMForPreTraining, ("suffix",)),
        Task("distill", GENERATION, ("suffix",), writes=True),
    )
}


def class_of(task: str, written_by: str | None) -> Any:
    """The class that a task trains and evaluates; a model that transcribes goes on to do so.

    Args:
        written_by: the class that the weights are of; None: they are new.
    """
    hears = task == "caption" and written_by == MMForSpeechSeq2Seq.__name__
    return MMForSpeechSeq2Seq if hears else KINDS[task].model_class


def check_media(data: Any, model: Any, processor: Any) -> None:
    """Raises ValueError where the data hold a kind of media that the model or its processor has no part for.

    The first samples are looked at, of a stream one.
    """
    is_whole = hasattr(data, "samples")
    samples = list(islice(data.samples if is_whole else data, LOOKED_AT if is_whole else 1))
    read = base_model(model).config.modalities or []
    for kind, held in (("image", "images"), ("video", "videos"), ("audio", "audios")):
        part = "feature_extractor" if kind == "audio" else "image_processor"
        if all(sample.get(name) is None for sample in samples for name in (kind, held)):
            continue
        if kind in read and getattr(processor, part) is not None:
            continue
        raise ValueError(
            f"the data hold {'sounds' if kind == 'audio' else held}, and the model reads "
            f"{' and '.join(read) or 'no media'}: {_HOW[kind]}"
        )


_HOW = {
    "image": "start from a model with an image tower (--vision-tower FOLDER --text-tower FOLDER)",
    "video": "give config.modalities=[image,video], and --preset mm-tiny config.max_frames=8 for a new model that "
    "knows the order of frames",
    "audio": "start from a model with an audio tower (--audio-tower FOLDER --text-tower FOLDER), or one that "
    "`mm convert` made of Whisper",
}


def columns_aside(data: Any) -> list[str]:
    """A line about the columns of a table that no model reads."""
    if not hasattr(data, "samples") or data.report.format not in TABLES:
        return []
    known = {*SAMPLE_COLUMNS, "id", "row_ids", "answers"}
    found = list(dict.fromkeys(name for sample in data.samples[:LOOKED_AT] for name in sample if name not in known))
    if not found:
        return []
    return [
        f"NOT READ: the columns {', '.join(found)}. Numbers with a picture are no modality of MM: a model reads "
        "them where they are written as text (columns NAME=text for one of them)"
    ]


def with_columns(data: Any, task: Task, on_error: str) -> list[str]:
    """Leaves out the samples that lack a column of the task; returns a line for each of them.

    Raises ValueError where all lack it, and for the first one with on_error="raise". Nothing is read but the columns;
    of a stream only the first sample is looked at.
    """
    if not hasattr(data, "samples"):
        for sample in data:
            task.sample(sample)
            break
        return []
    kept, faults = [], []
    for sample in data.samples:
        try:
            task.sample(sample)
            kept.append(sample)
        except ValueError as fault:
            faults.append(fault)
    if faults and (on_error == "raise" or not kept):
        raise faults[0]
    data.samples[:] = kept
    data.report.left_out += [(data.report.source, str(fault)) for fault in faults]
    return [f"left out: {fault}" for fault in faults]


class TaskSamples(Dataset):
    """A data set as a task's samples. The first one is looked at when it is made, so that a missing column is found
    before anything is trained."""

    def __init__(self, data: Any, task: Task):
        self.data, self.task = data, task
        task.sample(data[0])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.task.sample(self.data[index])


class TaskStream(IterableDataset):
    """The same for a stream."""

    def __init__(self, stream: Any, task: Task):
        self.stream, self.task = stream, task

    def set_epoch(self, epoch: int) -> None:
        self.stream.set_epoch(epoch)

    def __iter__(self):
        return map(self.task.sample, self.stream)


def task_samples(data: Any, task: Task) -> Any:
    return TaskStream(data, task) if isinstance(data, IterableDataset) else TaskSamples(data, task)
