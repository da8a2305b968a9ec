"""What a training step will hold in memory: weights, the optimizer's state, and what forward and backward need.

The last is measured: a forward and a backward of a few samples run once, every tensor that is made in them is counted
until it is gone, and the most that was there is carried over to the real batch along a straight line.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Numbers that an optimizer keeps for each trained weight, by the beginning of TrainingArguments.optim.
STATES = {
    "adamw_8bit": 0.5, "adamw_bnb_8bit": 0.5, "paged_adamw_8bit": 0.5, "lion_8bit": 0.25, "paged_lion_8bit": 0.25,
    "adamw": 2.0, "paged_adamw": 2.0, "lion": 1.0, "paged_lion": 1.0, "rmsprop": 1.0, "adagrad": 1.0,
    "adafactor": 0.1, "sgd": 0.0,
}  # fmt: skip
# What a process on a CPU holds beside tensors, as benchmarks/memory.py found it: a part of them for the holes in
# the heap (3 % where malloc gives large blocks back at once), and the buffers of PyTorch's libraries.
HOLES, LIBRARIES = 0.08, 32 << 20


@dataclass
class Memory:
    """Bytes. step: the most that forward and backward of one batch hold, gradients and activations together. beside:
    what the process holds in addition to tensors, on a CPU.

    known_optimizer: False where the state was counted as AdamW's, for want of a better guess.
    """

    weights: int
    optimizer: int
    average: int
    gradients: int
    step: int
    known_optimizer: bool = True
    on_cpu: bool = False

    @property
    def beside(self) -> int:
        return int(self.tensors * HOLES) + LIBRARIES if self.on_cpu else 0

    @property
    def total(self) -> int:
        return self.tensors + self.beside

    @property
    def tensors(self) -> int:
        return self.weights + self.optimizer + self.average + max(self.gradients, self.step)


def estimate(model: Any, make_batch: Callable[[int], Mapping[str, Any]], size: int, few: int, training: Any) -> Memory:
    """The memory of a step with `size` samples, from steps of at most `few`.

    The model, its buffers and the random numbers are afterwards as they were. make_batch(n): a batch of n samples.
    """
    trained = sum(_size(one) for one in model.parameters() if one.requires_grad)
    name = str(getattr(training.optim, "value", training.optim))
    numbers = next((STATES[start] for start in sorted(STATES, key=len, reverse=True) if name.startswith(start)), None)
    peaks = peaks_of_step(model, make_batch(min(size, few)), training)
    if size > few:  # each phase along its own line: with few samples gradients are the most, with many activations
        less = peaks_of_step(model, make_batch(few // 2), training)
        further = (size - few) / (few - few // 2)
        peaks = [int(most + (most - half) * further) for most, half in zip(peaks, less, strict=True)]
    return Memory(
        weights=sum(_size(one) for one in [*model.parameters(), *model.buffers()]),
        optimizer=int(trained * (2.0 if numbers is None else numbers)),
        average=trained if getattr(training, "ema", None) else 0,
        gradients=trained,
        step=max(peaks),
        known_optimizer=numbers is not None,
        on_cpu=next(model.parameters()).device.type == "cpu",
    )


def peaks_of_step(model: Any, batch: Mapping[str, Any], training: Any) -> list[int]:
    """The most bytes that tensors hold at once in a forward, and in the backward after it, gradients included."""
    there = next(model.parameters()).device
    given = {name: value.to(there) if torch.is_tensor(value) else value for name, value in batch.items()}
    trained = [one for one in model.parameters() if one.requires_grad]
    inputs = sum(_size(value) for value in given.values() if torch.is_tensor(value))
    with _as_in_training(model, training), _Counter() as counter:
        with _precision(training, there.type):
            loss = model(**given).loss
        forward, counter.most = counter.most, counter.now
        if trained and loss.requires_grad:
            torch.autograd.grad(loss, trained, allow_unused=True)
    return [inputs + forward, inputs + counter.most]


class _Counter(TorchDispatchMode):
    """Counts the bytes of tensors that are made under it, until they are gone."""

    def __init__(self):
        super().__init__()
        self.now, self.most = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if torch.is_tensor(one)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if torch.is_tensor(tensor):
                self._add(tensor.untyped_storage(), before)
        return made

    def _add(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key = storage._cdata
        if key in before or key in self.known:
            return
        size = storage.nbytes()
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@contextmanager
def _as_in_training(model: Any, training: Any) -> Iterator[None]:
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    was_training = model.training
    checkpoints = training.activation_checkpointing and not model.is_activation_checkpointing
    if checkpoints:
        model.activation_checkpointing_enable(training.activation_checkpointing_kwargs)
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            model.train()
            yield
    finally:
        model.train(was_training)
        if checkpoints:
            model.activation_checkpointing_disable()
        with torch.no_grad():
            for name, value in model.named_buffers():
                value.copy_(buffers[name])


def _precision(training: Any, device: str) -> Any:
    dtype = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None
    return nullcontext() if dtype is None else torch.autocast(device, dtype)


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
