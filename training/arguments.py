"""The settings of `mm train`, as dataclasses: what is read, where the weights come from, how they are trained.

`help` of a field is what `mm train --help-all` prints. All of Transformers' Seq2SeqTrainingArguments are settings too.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_available

from ..configuration.base import unknown_fields
from ..configuration.mm import MMConfig
from ..configuration.settings import nearest
from ..processing.images.limits import check_choice, check_count, check_share, check_switch
from ..processing.videos.sampling import check_positive
from ..processing.vocabulary import LEAST

TASKS = ("caption", "vqa", "retrieval", "classify", "chat", "pretrain", "distill")


def described(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def as_dict(name: str, value: Any) -> dict[str, Any] | None:
    """A dict as a recipe gives it, or as JSON, or as a=b,c=d."""
    if value is None or isinstance(value, Mapping):
        return None if value is None else dict(value)
    text = str(value).strip()
    if not text.startswith("{") and "=" in text:
        pairs = [pair.partition("=") for pair in text.split(",")]
        return {key.strip(): (text.strip() or None) for key, _, text in pairs}
    try:
        found = json.loads(text)
    except ValueError as fault:
        raise ValueError(f"{name}={text!r} is neither JSON nor a=b,c=d ({fault})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name}={text!r}; a JSON object is accepted, or a=b,c=d")
    return found


def as_names(value: Any) -> list[str]:
    """Names as a list, or in one text with commas."""
    parts = value.split(",") if isinstance(value, str) else list(value or ())
    return [part.strip() for part in parts if part.strip()]


def check_deepspeed(settings: Any) -> None:
    """Raises ValueError for a missing file, and where DeepSpeed is not installed."""
    if settings is None:
        return
    if isinstance(settings, str) and not settings.strip().startswith("{") and not Path(settings).is_file():
        raise ValueError(f"deepspeed={settings!r}: no such file; accepted is a JSON file of DeepSpeed's settings")
    if not is_deepspeed_available():
        raise ValueError(
            "deepspeed needs DeepSpeed, and so GPUs: pip install deepspeed. Without it leave deepspeed out: several "
            "processes train with DDP (docs/distributed.md)"
        )


def check_words(settings: Any, *names: str) -> None:
    """Raises TypeError for a setting that is no text, path or None."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not isinstance(value, (str, os.PathLike)):
            raise TypeError(f"{name}={value!r:.80}; accepted is a text or a path")


@dataclass
class DataArguments:
    """What is read. See docs/data.md."""

    data: str | None = described(None, "annotation file, table, folder, shards, or the name of a data set")
    media: str | None = described(None, "folder of the pictures, videos or sounds; None: that of the annotation file")
    format: str = described("auto", "format of the data, as in load_data")
    split: str | None = described(None, "split to train on, of data that has several")
    annotations: str | None = described(None, "file of the answers, for VQA")
    columns: dict | str | None = described(None, "names of other columns: caption=suffix,file=image")
    eval_data: str | None = described(None, "data to evaluate on; None: a part of the training data")
    eval_media: str | None = described(None, "media of eval_data; None: those of the training data")
    eval_split: str | None = described(None, "split to evaluate on")
    eval_annotations: str | None = described(None, "file of the answers of eval_data")
    eval_share: float = described(0.1, "part of the pictures that is held out where there is no eval data; 0: none")
    split_seed: int = described(0, "another number holds out other pictures")
    identify: str = described(
        "bytes", "what tells pictures apart, for the split and the order: bytes (reads every file once) or name"
    )
    on_error: str = described("skip", "bad samples: skip (each is listed in the report) or raise")
    streaming: bool = described(False, "read shards or a data set as a stream, in the order of its files")
    max_length: int | None = described(None, "cut texts at this number of tokens; None: the model's own limit")
    augment: str | None = described(None, "saved: the augmentation settings of the processor")
    feature_cache: str | None = described(
        None, "folder that keeps what a frozen image tower makes of each picture, computed once; needs freeze: vision"
    )

    def __post_init__(self):
        check_words(self, "media", "format", "split", "eval_media", "eval_split", "annotations", "eval_annotations",
                    "feature_cache")  # fmt: skip
        self.columns = as_dict("columns", self.columns)
        check_choice("on_error", self.on_error, ("skip", "raise"))
        check_choice("identify", self.identify, ("bytes", "name"))
        check_choice("augment", self.augment, (None, "saved"))
        check_count("max_length", self.max_length, least=1, none=True)
        check_count("split_seed", self.split_seed)
        check_switch("streaming", self.streaming)
        check_share("eval_share", self.eval_share)
        if self.eval_share == 1:
            raise ValueError(f"eval_share={self.eval_share}; accepted are shares from 0 to below 1")


@dataclass
class ModelArguments:
    """Where the weights come from, and which of them are trained."""

    model: str | None = described(None, "folder or Hub id to start from; None: mm-tiny, which comes with the package")
    preset: str | None = described(None, "new weights of this size: mm-tiny, mm-small, mm-base, mm-large")
    vision_tower: str | None = described(None, "start from this ViT, CLIP or other vision model; with text_tower")
    text_tower: str | None = described(None, "start from this BERT, GPT-2, Llama or other text model")
    audio_tower: str | None = described(None, "start from this audio model")
    text_encoder: str | None = described(None, "a second text model, which reads questions")
    processor: str | None = described(
        None, "folder or Hub id of a processor (preset) or a tokenizer; None: the model's"
    )
    config: dict | str | None = described(None, "fields of MMConfig, as JSON; config.fusion_type=merged sets one")
    new_vocabulary: int | None = described(
        None, "a vocabulary of so many pieces, made of the data's texts; known words keep what they mean (4096)"
    )
    freeze: str | None = described(None, "parts that are not trained: vision,text,text_encoder,... or globs of names")
    lora: int | None = described(
        None, "train LoRA adapters of this rank in place of the weights (needs peft); 0: none"
    )
    lora_alpha: float | None = described(None, "scale of LoRA; None: twice the rank")
    lora_targets: str | None = described(
        None, "regular expression or names of the layers; None: attention of the text"
    )
    lora_save: str = described("merged", "merged: an ordinary model; adapter: only the adapter")
    teacher: str | None = described(None, "distill: folder or Hub id of the model to learn from")

    def __post_init__(self):
        check_words(self, "model", "preset", "vision_tower", "text_tower", "audio_tower", "text_encoder", "processor",
                    "lora_targets", "teacher")  # fmt: skip
        self.config = as_dict("config", self.config) or {}
        faults = unknown_fields(MMConfig, self.config)
        if faults:
            raise ValueError(f"config: {'; '.join(faults)}")
        check_choice("lora_save", self.lora_save, ("merged", "adapter"))
        check_count("lora", self.lora, none=True)  # 0: none
        check_positive("lora_alpha", self.lora_alpha)
        check_count("new_vocabulary", self.new_vocabulary, none=True)
        starts = {"model": self.model, "preset": self.preset, "towers": self.vision_tower or self.text_tower}
        given = [name for name, value in starts.items() if value]
        if len(given) > 1:
            raise ValueError(
                f"the weights start from one of model, preset and towers; given are {' and '.join(given)}"
            )
        if bool(self.text_tower) != bool(self.vision_tower or self.audio_tower):
            raise ValueError("towers come together: text_tower with vision_tower, audio_tower, or both")
        if self.new_vocabulary is not None and self.new_vocabulary < LEAST:
            raise ValueError(f"new_vocabulary={self.new_vocabulary}; {LEAST} pieces or more are accepted")
        if self.new_vocabulary and self.lora:
            raise ValueError(
                f"new_vocabulary with lora={self.lora}: adapters leave the new words untrained; leave one out"
            )
        if self.lora and self.freeze:
            raise ValueError(
                f"lora={self.lora} (given, or what the task has) freezes all other weights by itself; leave "
                "freeze out, or set lora to 0"
            )


@dataclass
class MMTrainingArguments(Seq2SeqTrainingArguments):
    """Seq2SeqTrainingArguments with what MM adds; some defaults differ."""

    remove_unused_columns: bool = described(False, "the collator reads the columns")
    report_to: None | str | list[str] = described("none", "where Trainer logs to: tensorboard, wandb, ...")
    eval_strategy: str = described("epoch", "when to evaluate: no, steps, epoch")
    save_strategy: str = described("epoch", "when to save a checkpoint: no, steps, epoch")
    save_total_limit: int | None = described(2, "checkpoints that are kept")
    logging_steps: float = described(10, "a line of the log after so many steps")
    layer_decay: float | None = described(None, "learning rate of a layer as a share of that of the layer above it")
    ema: float | None = described(
        None, "average the weights over the steps with this decay (0.999); it is what is saved"
    )
    early_stopping_patience: int | None = described(
        None, "end after so many evaluations without a better metric_for_best_model, and keep the best model"
    )
    early_stopping_threshold: float = described(0.0, "how much better counts as better")
    resume: bool = described(False, "continue from the newest complete checkpoint in output")
    license: str | None = described(
        None, "license for the model card, as the Hub spells it; None: that of the base model"
    )
    dry_run: bool = described(False, "print what would be done, and train nothing")
    mlm_probability: float = described(0.15, "pretrain: share of the tokens that are masked for mlm")
    mim_ratio: float = described(0.5, "pretrain: share of the patches that are masked for mim")
    distill_weight: float = described(0.5, "distill: weight of the teacher; the rest is the loss of the labels")
    distill_temperature: float = described(2.0, "distill: temperature of both softmaxes")

    def __post_init__(self):
        for name in ("layer_decay", "ema", "distill_weight", "mlm_probability", "mim_ratio"):
            if getattr(self, name) is not None:
                check_share(name, getattr(self, name))
        check_positive("distill_temperature", self.distill_temperature)
        check_count("early_stopping_patience", self.early_stopping_patience, least=1, none=True)
        check_switch("resume", self.resume)
        check_switch("dry_run", self.dry_run)
        check_share("early_stopping_threshold", self.early_stopping_threshold, math.inf)
        check_words(self, "license")
        check_deepspeed(self.deepspeed)
        if self.early_stopping_patience is not None:
            self.load_best_model_at_end = True
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()  # else it warns
        super().__post_init__()


@dataclass
class RunArguments:
    """All settings of a run. settings: those that were given, by name, as a recipe holds them."""

    task: str
    data: DataArguments
    model: ModelArguments
    training: MMTrainingArguments
    recipe: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"task={self.task!r}{nearest(self.task, TASKS)}; accepted are {', '.join(TASKS)}")
        if self.data.data is None:
            raise ValueError("there is nothing to train on: give data (--data FOLDER)")
        if (self.task == "distill") != (self.model.teacher is not None):
            raise ValueError("distill needs teacher (--teacher FOLDER), and only distill has one")
