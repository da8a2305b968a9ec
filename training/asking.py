"""What `mm evaluate` and `mm audit` share: a model answers somebody's data, and a journal keeps what is answered."""

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset
from transformers import AutoProcessor

from ..configuration.settings import nearest
from ..data.load import format_of, load_data
from ..data.sources import media_names
from ..modeling_mm.core.places import device_of, dtype_settings
from ..modeling_mm.tasks.pretraining import MMForPreTraining
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..processing.collator import MMDataCollator
from ..processing.images.limits import check_switch
from .class_metrics import Interval
from .journal import Journal
from .metrics import answer, with_classes_of
from .predictions import Question, Reader
from .samples import digest_of, in_one_order, lines_of, whole
from .tasks import KINDS, class_of, task_samples

CARD, JOURNAL = "README.md", "answers.{}.jsonl"
TASKS = ("caption", "vqa", "retrieval", "classify")


@dataclass
class Asked:
    """Metrics with their intervals, every question with its prediction and score, and what was asked about what.

    told: for files: task, model, data, settings of the generation. is_speech: the texts are transcripts.
    others: tasks that the model could be evaluated for, too, where nobody said which.
    """

    task: str
    found: dict[str, Interval]
    questions: list[Question]
    samples: Any
    reader: Reader
    told: dict[str, Any]
    is_speech: bool = False
    others: Sequence[str] = ()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.reader.share[0] == 0

    def end(self) -> None:
        """After the files are written: the journal is not needed any more."""
        if self.reader.share[1] > 1:
            torch.distributed.barrier()
        if self.reader.journal is not None:
            self.reader.journal.remove()


def ask(
    model: Any,
    data: Any,
    task: str | None,
    processor: Any,
    output: str | os.PathLike | None,
    format: str,
    reading: Mapping[str, Any],
    batch_size: int,
    workers: int | None,
    resume: bool,
    progress: bool,
    *,
    generation: Mapping[str, Any],
    device: str | None = None,
    dtype: str | None = None,
    apart: str | None = None,
    check: Callable[[Any, str], None] | None = None,
) -> Asked:
    """What a model says about every sample of the data. The arguments are those of `mm.evaluate`.

    reading: media, split, annotations, columns of `load_data`. apart: a column; rows of a picture with other values in
    it stay samples of their own, and how sure the model was of a text is kept.
    check: raises an error for samples and a task that do not do, before anything is answered.
    """
    check_switch("resume", resume)
    check_switch("progress", progress)
    if output is not None and not isinstance(output, (str, os.PathLike)):
        raise TypeError(f"output is the path of a folder; got {type(output).__name__}")
    loaded, processor, (task, *others) = _loaded(model, processor, task, device, dtype)
    rank, processes = _processes()
    options = {key: value for key, value in reading.items() if value is not None}
    samples, report = _samples(data, task, loaded, format, options, apart)
    if check is not None:
        check(samples, task)
    reader = Reader(
        MMDataCollator(processor), batch_size, "skip", share=(rank, processes), progress=progress and rank == 0,
        workers=workers,
    )  # fmt: skip
    reader.keeps_confidence = apart is not None
    told = {
        "task": task,
        "model": name_of(model),
        "data": str(data) if isinstance(data, (str, os.PathLike)) else report,
    }
    told |= {"split": reading.get("split"), "column": apart, "dtype": dtype, **generation}
    told = {key: value for key, value in told.items() if value is not None}
    if output is not None:
        header = {**told, "processes": processes, "samples": _digest(samples), "weights": _mark(model, loaded)}
        path = Path(output) / JOURNAL.format(rank)
        if not resume:
            path.unlink(missing_ok=True)
        reader.journal = Journal(path, header)
    names = getattr(samples, "label_names", None) or getattr(getattr(samples, "data", None), "label_names", None)
    found, questions = answer(task, loaded, processor, samples, reader, names, every=True, **generation)
    is_speech = task == "caption" and is_speech_model([type(loaded).__name__])
    return Asked(task, found, questions, samples, reader, told, is_speech, others)


def name_of(model: Any) -> str:
    return str(model) if isinstance(model, (str, os.PathLike)) else type(model).__name__


def check_card(folder: str) -> None:
    """ValueError for a model that is no folder with a card to update."""
    if not (Path(folder) / CARD).is_file():
        raise ValueError(f"update_card: {folder} is no folder with a {CARD}; mm train writes one")


def _loaded(
    model: Any, processor: Any, task: str | None, device: str | None, dtype: str | None
) -> tuple[Any, Any, list[str]]:
    """The model of the class that the task needs, its processor, and the task, with others that would do."""
    if task is not None and task not in TASKS:
        raise ValueError(f"task={task!r}{nearest(task, TASKS)}; accepted are {', '.join(TASKS)}")
    if not isinstance(model, (str, os.PathLike)):
        if processor is None:
            raise ValueError("a model that is loaded already needs its processor: give processor")
        if device or dtype:
            raise ValueError("device and dtype are for a model that is loaded here; move this one before")
        name = type(model).__name__
        if task is None and name == MMForPreTraining.__name__:
            task = "retrieval"  # it writes nothing as it is
        return model, processor, [task] if task else tasks_of(model.config, [name], name)
    source = str(model)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source)
    architectures = config.architectures or []
    tasks = [task] if task else tasks_of(config, architectures, source)
    model_class = class_of(tasks[0], (architectures or [None])[0])
    place = device_of(device)
    loaded, info = model_class.from_pretrained(source, output_loading_info=True, **dtype_settings(dtype))
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{source!r} is of {architectures}; task={tasks[0]!r} evaluates {model_class.__name__}, of which it "
            f"holds no weights for {len(missing)} tensors ({missing[0]}, ...): train that task first"
        )
    processor = processor or AutoProcessor.from_pretrained(source)
    if tasks[0] == "retrieval" and MMForPreTraining.__name__ in architectures:
        processor.add_eos_token = True  # pre-training compares closed texts
    return loaded.to(place).eval(), processor, tasks


def is_speech_model(architectures: Sequence[str] | None) -> bool:
    """Whether a model of this class writes what it hears, and is compared with transcripts."""
    return MMForSpeechSeq2Seq.__name__ in (architectures or [])


def tasks_of(config: Any, architectures: Sequence[str], source: str) -> list[str]:
    """The task that evaluates a model of a class; of one that was trained for several heads (MMForPreTraining) all
    that its losses trained.

    Raises: ValueError for a class that no task evaluates.
    """
    if is_speech_model(architectures):
        return ["caption"]
    if MMForPreTraining.__name__ in architectures:
        losses, trained = config.pretraining_losses or {}, {"lm": ["caption", "vqa"], "itc": ["retrieval"]}
        found = [task for loss, tasks in trained.items() if loss in losses for task in tasks]
    else:
        found = [task for task in TASKS if KINDS[task].model_class.__name__ in architectures][:1]
    if not found:
        told = ", ".join(architectures) or "no class"
        raise ValueError(f"{source!r} is of {told}, which no task evaluates; tasks are {', '.join(TASKS)} (--task)")
    return found


def _samples(
    data: Any, task: str, model: Any, format: str, options: dict[str, Any], apart: str | None = None
) -> tuple[Any, str]:
    """The samples of a task in an order that follows from what they hold, and what they are in words."""
    report = f"{len(data)} samples" if hasattr(data, "__len__") and not isinstance(data, str) else "samples"
    if isinstance(data, (str, os.PathLike)):
        if apart is not None and "webdataset" not in (format, format_of(data) if format == "auto" else ""):
            options["group"] = False  # a sample for each row, with its own value in that column
        read = load_data(data, format=format, on_error="skip", **options)
        read = whole(read, str(data)) if isinstance(read, IterableDataset) else read
        report = lines_of(read.report)[0]
        data = in_one_order(read, apart=apart)
    elif options:
        raise ValueError(f"{', '.join(options)} are for data that is read from files; these samples are read already")
    elif isinstance(data, Mapping):
        raise TypeError("data is one mapping; give a list of samples, or what load_data reads")
    elif hasattr(data, "__len__") and not len(data):
        raise ValueError("data holds no sample")
    if task == "classify":
        data = with_classes_of(model, data)
    return task_samples(data, KINDS[task]), report


def _processes() -> tuple[int, int]:
    """The number of this process and of all, under torchrun."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _digest(samples: Any) -> str:
    """Tells other samples under the same name, and the same ones with other answers. The ids of what is read from
    files are hashes of the media; of other samples without an id the media themselves are read."""
    found = hashlib.sha256()
    for place in range(len(samples)):
        sample = samples[place]
        told = [(name, sample.get(name)) for name in ("id", "text", "context_text", "suffix", "label", "answers")]
        media = [] if sample.get("id") is not None else [_media_mark(one) for one in media_names(sample)]
        found.update(repr((told, media)).encode())
    return found.hexdigest()


def _media_mark(source: Any) -> str:
    """What a medium of a sample without an id holds: of a file or bytes, or of pixels and samples."""
    if isinstance(source, Mapping) and "array" in source:
        source = source["array"]
    try:
        if isinstance(source, (str, bytes, bytearray, Mapping)):
            return digest_of(source)
    except OSError:  # it is left out later, by its name
        return str(source)
    held = np.asarray(source)
    if held.dtype == object:
        return secrets.token_hex()  # nobody can tell, so no other run is gone on with
    return hashlib.sha256(f"{held.shape}{held.dtype}".encode() + held.tobytes()).hexdigest()


def _mark(source: Any, model: Any) -> list:
    """Tells other weights under the same name: sizes and times of the files, the commit of the Hub, or the weights of
    a model that is loaded already."""
    if not isinstance(source, (str, os.PathLike)):
        found = hashlib.sha256()
        for tensor in model.state_dict().values():
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return [found.hexdigest()]
    folder = Path(str(source))
    if folder.is_dir():
        found = [(file.name, file.stat()) for file in sorted(folder.glob("*.safetensors"))]
        return [[name, one.st_size, one.st_mtime_ns] for name, one in found]
    return [getattr(model.config, "_commit_hash", None)]
