"""Training on a stream in any number of processes: the loader, and the place in the stream that a checkpoint keeps.

stream ─ SharedStream: the batches of this process ─ DataLoader, workers ─ collator ─ accelerate's loader ─► Trainer
                                  checkpoint: {"epoch": 1, "samples": 96, "processes": 3, ...} ─► resume
"""

import math
from typing import Any

from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.utils import logging

from ..data.shared_stream import SharedStream

logger = logging.get_logger(__name__)
NAME = "StreamPlace"  # in trainer_state.json, among the states of callbacks


class _Collated:
    """The collator, but for the empty lists that stand for batches of before the interruption."""

    def __init__(self, collate: Any):
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        return self.collate(samples) if samples else {}


def stream_loader(trainer: Any, stream: Any, collate: Any, batch_size: int) -> DataLoader:
    """accelerate's loader of this process's batches, which it does not deal out again."""
    args = trainer.args
    shared = SharedStream(stream, batch_size, args.world_size, args.process_index, args.dataloader_drop_last)
    loader = DataLoader(
        shared,
        batch_size=None,
        collate_fn=_Collated(collate),
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        prefetch_factor=args.dataloader_prefetch_factor,
        in_order=args.dataloader_in_order,
    )
    return prepare_data_loader(
        loader,
        trainer.accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        dispatch_batches=False,
        non_blocking=trainer.accelerator.non_blocking,
    )


class StreamPlace(TrainerCallback):
    """Which samples of the stream were trained on: the epoch, and how many of it."""

    def __init__(self):
        self.shared: SharedStream | None = None  # of the training that runs, None where its data are no stream
        self.epoch, self.samples = 0, 0

    def begin(self, shared: SharedStream | None) -> None:
        self.shared, self.epoch, self.samples = shared, 0, 0

    def on_step_end(self, args, state, control, **kwargs):
        if self.shared is not None:
            self.samples += self._per_step(args)

    def on_epoch_end(self, args, state, control, **kwargs):
        if not control.should_training_stop:  # else the training may end within an epoch
            self.epoch, self.samples = self.epoch + 1, 0

    def _per_step(self, args: Any) -> int:
        assert self.shared is not None
        return self.shared.batch_size * self.shared.processes * args.gradient_accumulation_steps

    def kept(self, args: Any) -> dict[str, Any]:
        """What a checkpoint keeps."""
        found = {"epoch": self.epoch, "samples": self.samples, **self._numbers(args)}
        return {"args": {}, "attributes": found}

    def _numbers(self, args: Any) -> dict[str, int]:
        assert self.shared is not None
        return {
            "processes": self.shared.processes, "batch_size": self.shared.batch_size,
            "workers": args.dataloader_num_workers,
        }  # fmt: skip

    def resume(self, trainer: Any, per_epoch: int) -> tuple[int, int] | None:
        """(epoch, batches of it to skip) by what the checkpoint kept; None where it kept nothing."""
        kept = (trainer.state.stateful_callbacks or {}).get(NAME)
        if self.shared is None or kept is None:
            return None
        kept, args, shared = kept["attributes"], trainer.args, self.shared
        self.epoch, self.samples = int(kept["epoch"]), int(kept["samples"])
        steps = args.gradient_accumulation_steps
        if not shared.has_places:
            if (changed := self._numbers(args)) != {name: kept[name] for name in changed}:
                logger.warning(
                    f"the checkpoint was saved with { ({name: kept[name] for name in changed}) } and continues with "
                    f"{changed}: this stream has another order then, so samples of epoch {self.epoch} may come twice "
                    "or not at all; later epochs are whole"
                )
            return self.epoch, self.samples // (shared.batch_size * shared.processes)
        left = shared.batches(max(shared.stream.count_samples() - self.samples, 0))
        skipped = max(len(shared) - left, 0) // steps * steps  # Trainer counts whole steps
        shared.resume(self.epoch, self.samples, skipped)
        if args.max_steps < 0:  # other processes make another number of steps of the epochs that are left
            trained = self.epoch * per_epoch + skipped // steps
            whole = math.ceil(args.num_train_epochs * per_epoch)
            trainer.state.max_steps = trainer.state.global_step + max(whole - trained, 0)
        return self.epoch, skipped
