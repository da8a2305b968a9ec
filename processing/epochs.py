"""Which pass over the data a batch belongs to, who asks for it, and what its samples are called.

    Trainer ── accelerate's loader ── torch's DataLoader ── fetcher ── collator(samples)

A collator only gets samples, not an epoch. The callers know it: torch makes one
fetcher for each pass, which holds the samples' places in a map-style data set; accelerate's loader counts the epochs
(Trainer sets that count, when it resumes too); Trainer knows whether it trains or evaluates. A worker is forked, or
the collator is pickled for it, inside these calls, so workers see the same.
"""

import inspect
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.data import get_worker_info

logger = logging.getLogger(__name__)
REMEMBERED = 2**18  # names of a stream
_EVALUATES, _TRAINS = ("evaluate", "predict"), ("_run_epoch", "get_batch_samples", "_inner_training_loop", "train")


@dataclass(frozen=True)
class Caller:
    """Who asks for batches.

    Args:
        epoch: accelerate's count as its loader, or the worker of this process, began; None: not by accelerate.
        task: of Trainer: "train", "evaluate", "predict"; "": not called by Trainer.
        keeps_logits: of a model that takes return_logits, whether something of Trainer's may read the logits of a
            batch of training; None where that is not known.
        needs_return_loss: Trainer evaluates a model whose loss has no labels, and is asked for by `return_loss`.
    """

    epoch: int | None = None
    task: str = ""
    keeps_logits: bool | None = None
    needs_return_loss: bool = False


@dataclass(frozen=True)
class Asked:
    """One call of the collator: the caller, and of torch's DataLoader its fetcher, the places of the samples in a
    map-style data set, and the number that it drew as the pass (or this worker) began."""

    caller: Caller = Caller()
    fetcher: Any = None
    places: Sequence[int] | None = None
    seed: int | None = None
    starts_workers: bool = False

    @property
    def is_stream(self) -> bool:
        return self.fetcher is not None and hasattr(self.fetcher, "dataset_iter")


def _calls() -> Iterator[tuple[str, str, FrameType]]:
    """The calls of methods on the stack, innermost first: module, method and frame."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",):
            yield frame.f_globals.get("__name__", ""), frame.f_code.co_name, frame
        frame = frame.f_back


def who_asks(count: int | None = None) -> Asked:
    """The one who asks for the batch that is being made, of `count` samples."""
    asked, loader, trainer, task = Asked(), None, None, ""
    for module, method, frame in _calls():
        if module == "torch.utils.data._utils.fetch" and asked.fetcher is None:
            places = frame.f_locals.get("possibly_batched_index")
            known = isinstance(places, Sequence) and len(places) == count
            asked = replace(asked, fetcher=frame.f_locals["self"], places=places if known else None)
        elif module == "torch.utils.data.dataloader" and asked.seed is None:
            found = frame.f_locals["self"]
            starts = method == "__init__" and hasattr(found, "_workers")
            asked = replace(asked, seed=getattr(found, "_base_seed", None), starts_workers=starts)
        elif module == "accelerate.data_loader" and loader is None:
            loader = frame.f_locals["self"] if hasattr(frame.f_locals["self"], "iteration") else None
        elif module == "transformers.trainer" and method in (*_EVALUATES, *_TRAINS):
            trainer, task = frame.f_locals["self"], method if method in _EVALUATES else "train"
            break
    worker = get_worker_info()
    if worker is not None:
        asked = replace(asked, seed=worker.seed - worker.id)
    if asked.is_stream:
        asked = replace(asked, places=None)
    return replace(asked, caller=_caller(loader, task, trainer))


def _caller(loader: Any, task: str, trainer: Any) -> Caller:
    epoch = getattr(loader, "iteration", None)
    if trainer is None:
        return Caller(epoch)
    model = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
    takes = inspect.signature(model.forward).parameters
    is_asked = task == "train" and "return_logits" in takes
    return Caller(
        epoch,
        task,
        keeps_logits=_keeps_logits(trainer, model, loader) if is_asked else None,
        needs_return_loss=task == "evaluate" and "return_loss" in takes and not trainer.label_names,
    )


def _keeps_logits(trainer: Any, model: Any, loader: Any) -> bool | None:
    """Whether Trainer may read the logits, or the model cannot make its loss without them."""
    if trainer.args.world_size > 1 and hasattr(loader, "slice_fn"):
        return None  # such batches hold tensors only
    own = sys.modules["transformers.trainer"].Trainer
    makes_loss = trainer.compute_loss_func is not None or trainer.label_smoother is not None
    other = any(getattr(type(trainer), name) is not getattr(own, name) for name in ("compute_loss", "training_step"))
    spread = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or trainer.args.n_gpu > 1
    head = getattr(model, "lm_head", None)
    plain = type(head) is torch.nn.Linear and type(head.weight) is torch.nn.Parameter and not head._forward_hooks
    return not plain or makes_loss or other or spread


@cache
def warn_of_no_labels() -> None:
    logger.warning(
        "Trainer evaluates with MMDataCollator(mode='generate'), whose batches have no labels: there is no eval_loss, "
        "and compute_metrics is not called. Use mode='train'; Seq2SeqTrainer(predict_with_generate=True) then "
        "generates from the prompts only"
    )


class Pass:
    """One pass over the data: what it is called in draws, and what came in it before."""

    def __init__(self, number: int | str):
        self.number = number
        self.seen: dict[str, int] = {}
        self.cleared = 0

    def again(self, name: str) -> str:
        """A suffix for a name that came before in this pass, "" at first; it takes memory for REMEMBERED names."""
        if len(self.seen) == REMEMBERED:
            self.seen.clear()
            self.cleared += 1
        times = self.seen[name] = self.seen.get(name, -1) + 1
        return f"~{self.cleared}.{times}" if times or self.cleared else ""


class Passes:
    """The passes over the data of one collator."""

    def __init__(self):
        self.told: torch.Tensor | None = None  # in shared memory, so that workers which live on see it
        self.found: WeakKeyDictionary[Any, Pass] = WeakKeyDictionary()
        self.by_hand = Pass(0)
        self.begun: Counter[int | None] = Counter()
        self.started_by: Caller | None = None

    def tell(self, epoch: int) -> None:
        if self.told is None:
            self.told = torch.zeros(1, dtype=torch.int64).share_memory_()
        self.told.fill_(epoch)

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is not forked: with the one who starts it."""
        asked = who_asks()
        return {"told": self.told, "started_by": asked.caller if asked.starts_workers else self.started_by}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()
        vars(self).update(state)

    def caller(self, asked: Asked) -> Caller:
        is_sent = self.started_by is not None and get_worker_info() is not None and asked.caller == Caller()
        return self.started_by if is_sent and self.started_by is not None else asked.caller

    def current(self, asked: Asked) -> tuple[Pass, int | str]:
        """That of this call, and the number that its draws go by:

        the epoch that `tell` was given; otherwise 0 when Trainer evaluates, so that evaluations can be compared;
        otherwise the epoch of accelerate and Trainer; otherwise, for a plain DataLoader, the number that torch drew
        for the pass, and the passes that a persistent worker has made; otherwise (a direct call) 0.
        """
        if asked.fetcher is None:
            made = self.by_hand if self.told is None else Pass(0)
        else:
            made = self.found.get(asked.fetcher)
        if made is None:
            caller, later = self.caller(asked), self.begun[asked.seed]  # a worker keeps its seed from pass to pass
            self.begun[asked.seed] += 1
            number = f"{asked.seed}+{later}" if caller.epoch is None else caller.epoch + later
            made = self.found[asked.fetcher] = Pass(0 if caller.task in _EVALUATES else number)
        return made, made.number if self.told is None else int(self.told)
