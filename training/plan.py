"""The plan of a run: what `mm train --dry-run` prints before anything is trained."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..data.sources import media_names
from ..processing.collator import SAMPLE_COLUMNS, MMDataCollator
from ..processing.columns import check_columns, renamed
from ..processing.images.limits import MediaDecodeError
from .contact_sheet import Seen, save_sheet, seen_in
from .memory import Memory, estimate
from .predictions import listed

SHOWN = 3  # samples of the contact sheet
COUNTED = 1000  # samples whose tokens are counted
MEASURED = 4  # samples of the step that memory is measured with
NO_LIMIT = 1 << 30
TEXTS = ("text", "suffix", "context_text")


@dataclass
class Plan:
    """parts: (name, parameters, trained ones). steps: None for a stream without max_steps. lengths: tokens of up to a
    thousand texts; limit: where they are cut. seen: what the model sees of three samples. notes: what could not be
    found out, and why."""

    model: str
    parts: list[tuple[str, int, int]]
    memory: Memory | None
    device: str
    data: list[str]
    steps: int | None
    steps_per_epoch: int | None
    batch: int  # samples of one step, over all processes
    lengths: list[int] = field(default_factory=list)
    limit: int | None = None
    seen: list[Seen] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def save_contact_sheet(self, path: str | os.PathLike) -> None:
        """A PNG of the samples as the model sees them, with the tokens that it reads and learns."""
        save_sheet(self.seen, path)

    def __str__(self) -> str:
        return "\n".join([*self._of_model(), *self._of_memory(), *self._of_data(), *self.notes])

    def _of_model(self) -> list[str]:
        total, trained = sum(count for _, count, _ in self.parts), sum(own for _, _, own in self.parts)
        lines = [f"model: {self.model}, {total:,} parameters, {trained:,} of them trained"]
        return lines + [f"  {name:24} {count:>13,}  {_share(own, count)}" for name, count, own in self.parts]

    def _of_memory(self) -> list[str]:
        if self.memory is None:
            return []
        held = self.memory
        named = {"weights": held.weights, "optimizer": held.optimizer}
        named |= {"average of weights": held.average} if held.average else {}
        named |= {"gradients and activations": held.step, "of them gradients": held.gradients}
        named |= {"process without tensors": held.beside} if held.beside else {}
        told = ", ".join(f"{name} {in_bytes(size)}" for name, size in named.items())
        guess = "" if held.known_optimizer else " (the optimizer's state as AdamW's)"
        return [
            f"memory of a step on {self.device}: {in_bytes(held.total)}{'' if held.beside else ' of tensors'}{guess}; "
            "real steps took 3 % less to 30 % more where it was measured",
            f"  {told}",
        ]

    def _of_data(self) -> list[str]:
        told = list(self.data)
        if self.lengths:
            cut = 0 if self.limit is None else sum(length > self.limit for length in self.lengths)
            middle = int(np.median(self.lengths))
            limit = "no limit" if self.limit is None else f"{cut} cut at {self.limit}"
            told.append(
                f"tokens of {len(self.lengths)} texts: {min(self.lengths)} to {max(self.lengths)}, half of them "
                f"{middle} or fewer; {limit}"
            )
        steps = "no end: a stream without max_steps" if self.steps is None else f"{self.steps:,}"
        every = "" if self.steps_per_epoch is None else f", {self.steps_per_epoch:,} in an epoch"
        told.append(f"steps: {steps}{every}, of {self.batch} samples each; how long they take shows when they run")
        return told


def describe_plan(
    model: Any,
    processor: Any,
    arguments: Any,
    train_data: Any,
    eval_data: Any = None,
    *,
    collator: MMDataCollator | None = None,
) -> Plan:
    """What a run would do: nothing is trained, and the model stays as it is.

    Reads the media of at most four samples, and measures memory with a forward and a backward of the one with the
    longest text, two and four times in a batch.

    Args:
        arguments: RunArguments of `mm train`, or TrainingArguments.
        train_data, eval_data: samples as the collator takes them; a stream is looked at, not counted.
        collator: that of the training.
    """
    training = getattr(arguments, "training", arguments)
    collate = collator or MMDataCollator(processor)
    samples = first_samples(train_data, COUNTED)
    size = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    steps, per_epoch = _steps(train_data, training)
    data = [_counts("train", train_data, samples), *([] if eval_data is None else [_evaluated(eval_data)])]
    plan = Plan(type(model).__name__, parts_of(model), None, str(training.device), data, steps, per_epoch, size)
    plan.lengths = token_lengths(samples, collate)
    limit = collate.max_length or processor.tokenizer.model_max_length
    plan.limit = limit if limit < NO_LIMIT else None
    _look(plan, model, processor, training, samples, collate)
    return plan


def _look(plan: Plan, model: Any, processor: Any, training: Any, samples: list, collate: MMDataCollator) -> None:
    """Collates samples, for the contact sheet and for a forward whose activations are counted."""
    longest = sorted(samples, key=lambda sample: -sum(len(str(sample.get(name) or "")) for name in TEXTS))[:MEASURED]
    apart = replace(collate, share_media=False)  # a sample several times is several pictures

    def batch(count: int) -> Any:  # of different samples: equal ones are no negatives of each other
        return apart([longest[number % len(longest)] for number in range(count)])

    try:
        plan.seen = seen_in(collate(samples[:SHOWN]), processor, collate.patch_size)
        plan.memory = estimate(model, batch, training.per_device_train_batch_size, MEASURED, training)
    except MediaDecodeError as fault:
        plan.notes.append(f"the first samples cannot be read, so nothing is shown or measured of them: {fault.reason}")


def first_samples(data: Any, most: int) -> list[dict]:
    """Up to `most` samples, spread over data of a known length, the first ones of a stream."""
    if hasattr(data, "__len__"):
        if not len(data):
            raise ValueError("the training data hold no sample")
        places = np.unique(np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int))
        return [data[int(place)] for place in places]
    found = []
    for sample in data:
        found.append(sample)
        if len(found) == most:
            break
    if not found:
        raise ValueError("the training data hold no sample")
    return found


def parts_of(model: Any) -> list[tuple[str, int, int]]:
    """(name, parameters, trained ones) of each part, and of the token embeddings; tied weights count once."""
    counts: Counter[str] = Counter()
    trained: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = _part(name)
        counts[part] += parameter.numel()
        trained[part] += parameter.numel() if parameter.requires_grad else 0
    return [(part, count, trained[part]) for part, count in counts.items()]


def _part(name: str) -> str:
    words = [word for word in name.split(".") if word not in ("model", "base_model", "base_layer")]
    if any(word.startswith("lora_") for word in words):
        return "LoRA"
    if len(words) > 1 and words[1].startswith("embed_tokens"):
        return f"{words[0]} (tokens)"
    return words[0]


def token_lengths(samples: Sequence[Any], collator: MMDataCollator) -> list[int]:
    """How many tokens each text of the samples has before anything is cut, prompt and suffix together."""
    plain = replace(
        collator, max_length=NO_LIMIT, blank_media=False, augment=None, mlm_probability=0.0, mim_ratio=0.0,
        masked_lm=False, pad_to_multiple_of=None, return_loss=False, columns=None,
    )  # fmt: skip
    samples = renamed(samples, check_columns(collator.columns, (*SAMPLE_COLUMNS, "id")))
    texts = [{name: sample[name] for name in TEXTS if sample.get(name) is not None} for sample in samples]
    texts = [sample for sample in texts if sample]
    if not texts:
        return []
    found: list[int] = []
    for start in range(0, len(texts), 64):
        chunk = texts[start : start + 64]
        batch = plain(chunk)
        for mask in ("attention_mask", "context_attention_mask"):
            if mask in batch and (mask == "attention_mask" or "input_ids" not in batch):
                found += batch[mask].sum(1).tolist()
    return found


def _steps(data: Any, training: Any) -> tuple[int | None, int | None]:
    """All steps and those of an epoch, as Trainer counts them; None where nobody knows."""
    if not hasattr(data, "__len__"):
        return (training.max_steps if training.max_steps > 0 else None), None
    per_batch = training.per_device_train_batch_size * training.world_size
    batches = len(data) // per_batch if training.dataloader_drop_last else -(-len(data) // per_batch)
    per_epoch = max(-(-batches // training.gradient_accumulation_steps), 1)
    if training.max_steps > 0:
        return training.max_steps, per_epoch
    return math.ceil(training.num_train_epochs * per_epoch), per_epoch


def _counts(name: str, data: Any, samples: Sequence[Any]) -> str:
    if not hasattr(data, "__len__"):
        return f"{name}: a stream, not counted"
    rows = sum(max(1, *(len(listed(sample.get(column))) for column in TEXTS)) for sample in samples)
    media = sum(len(media_names(sample)) for sample in samples)
    of = "" if len(samples) == len(data) else f" (of {len(samples)} samples that were looked at)"
    return f"{name}: {len(data):,} samples, {rows:,} texts, {media:,} media{of}"


def _evaluated(data: Any) -> str:
    return f"evaluation: {len(data):,} samples" if hasattr(data, "__len__") else "evaluation: a stream, not counted"


def _share(own: int, count: int) -> str:
    return "trained" if own == count else "frozen" if not own else f"{own:,} trained"


def in_bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
