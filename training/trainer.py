"""MMTrainer: Seq2SeqTrainer whose checkpoints survive, and that ends cleanly when it is told to."""

import copy
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.data import DataLoader, IterableDataset
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..data.shared_stream import SharedStream
from ..weights.manifest import NAME as MANIFEST
from .checkpoints import (
    STATE,
    WRITING,
    cause_of,
    checkpoints,
    clean,
    lock,
    newest_complete,
    put_in_place,
    rotate,
    why_incomplete,
)
from .ending import EndWhenTold, outlive_sigterm
from .kept_memory import kept_memory
from .pushes import PushingTrainer
from .streams import NAME, StreamPlace, stream_loader
from .tower_features import autocast_dtype, check_collator
from .verify import write_manifest

logger = logging.get_logger(__name__)


def _warn_of_restarts(should_log: bool) -> None:
    """Of torch 2.13: with one store for all starts, a new process may read the address that a dead one left there."""
    restarts, shared = (os.environ.get(f"TORCHELASTIC_{name}") for name in ("MAX_RESTARTS", "USE_AGENT_STORE"))
    if should_log and int(restarts or 0) and shared == "True":
        logger.warning(
            "torchrun --max-restarts: processes that start again may look for dead ones until they time out; set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun (docs/distributed.md)"
        )


class MMTrainer(PushingTrainer):
    """Seq2SeqTrainer with safe checkpoints and shared streams; everything else is inherited.

    * A checkpoint is written aside with the SHA-256 of its files (manifest.json), then renamed into place, so a kill
      at any moment leaves complete ones.
    * `train(resume_from_checkpoint=True)` takes the newest complete checkpoint, every byte checked, and says which; it
      starts anew where there is none.
    * `save_total_limit` deletes only complete checkpoints, never the newest of them.
    * A second run into the same output folder raises BlockingIOError.
    * A full disk, a read-only folder or an input/output error raises OSError with that word; older checkpoints stay.
    * SIGTERM saves a checkpoint after the current step and ends the training.
    * A push to the Hub is one commit with code and card, which deletes what it replaces (docs/publishing.md).
    * A stream (`mm.MMShards`, streaming data sets) is dealt out to processes and workers: each sample once in an
      epoch, also after a resume. dispatch_batches or split_batches in `accelerator_config` leave it to accelerate.
    """

    _aside: Path | None = None  # where a checkpoint is being written

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.fsdp and not self.is_fsdp_enabled:
            raise ValueError(
                f"fsdp={self.args.fsdp!r} asks for FSDP, but accelerate makes none of it on {self.args.device}: on a "
                "CPU it trains with DDP. Leave fsdp out, or shard the model as it loads (docs/distributed.md)"
            )
        _warn_of_restarts(self.args.should_log)
        self.add_callback(EndWhenTold(self))
        self._place = StreamPlace()
        self.add_callback(self._place)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        check_collator(self.data_collator, self.model, autocast_dtype(self.args))
        output = Path(str(self.args.output_dir))
        held = None
        if self.args.should_save:
            held = lock(output)
            clean(output)
        try:
            if resume_from_checkpoint is True:
                found = self._newest_complete(output)
                resume_from_checkpoint = None if found is None else str(found)
                if self.args.should_log and found is None and checkpoints(output):
                    logger.warning(f"no checkpoint in {output} is complete: the training begins anew")
                elif self.args.should_log and found is not None:
                    logger.warning(f"resuming from {found}")
            elif resume_from_checkpoint:
                self._check_named(Path(str(resume_from_checkpoint)))
            with kept_memory(self.args.device.type):
                return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if held is not None:
                held.close()

    def _check_named(self, checkpoint: Path) -> None:
        """Raises ValueError for a checkpoint, named by the caller, that is not as it was saved."""
        if (checkpoint / MANIFEST).exists() or (checkpoint / STATE).exists():
            reason = why_incomplete(checkpoint, hashes=self.args.should_save)
            if reason:
                raise ValueError(f"cannot resume from {checkpoint}: {reason}")

    def _newest_complete(self, output: Path) -> Path | None:
        """The newest checkpoint that is complete for every process: the first one offers, the others look."""
        if self.args.world_size == 1:
            return newest_complete(output, logger.warning)
        offered = iter(checkpoints(output))
        while True:
            is_first = self.args.process_index == 0
            told = [next((path.name for path in offered), None) if is_first else None]
            broadcast_object_list(told)
            if told[0] is None:
                return None
            path = output / told[0]
            reason = why_incomplete(path) if self.args.should_save else ""
            reason = reason if path.is_dir() else "it is not there"
            reasons = gather_object([reason])
            if not any(reasons):
                return path
            for process, reason in enumerate(reasons):
                if reason and self.args.should_log:
                    logger.warning(f"{path} is not complete and is passed over: {reason} (process {process})")

    def get_train_dataloader(self) -> DataLoader:
        if not self._shares_stream():
            self._place.begin(None)
            return outlive_sigterm(super().get_train_dataloader())
        collate = self._get_collator_with_removed_columns(self.data_collator, description="Training")
        loader = stream_loader(self, self.train_dataset, collate, self._train_batch_size)
        shared: Any = loader.dataset
        self._place.begin(shared)
        return outlive_sigterm(loader)

    def _shares_stream(self) -> bool:
        """Whether the training data are a stream that each process reads its own samples of."""
        args = self.args
        settings: Any = args.accelerator_config
        by_accelerate = settings.dispatch_batches or settings.split_batches
        of_all = self._train_batch_size * args.world_size * args.gradient_accumulation_steps
        each_its_own = self.get_total_train_batch_size(args) == of_all  # else some processes read the same
        return isinstance(self.train_dataset, IterableDataset) and not by_accelerate and each_its_own

    def set_initial_training_values(self, args: Any, dataloader: DataLoader) -> tuple:
        epochs, *found = super().set_initial_training_values(args, dataloader)
        # an epoch has at least one step, but another number of them where other processes resume
        return (max(epochs, args.max_steps) if isinstance(dataloader.dataset, SharedStream) else epochs, *found)

    def _validate_args(self) -> None:
        stream = self.train_dataset
        self.train_dataset = [] if hasattr(stream, "places") else stream  # it can be counted: epochs will do
        try:
            super()._validate_args()
        finally:
            self.train_dataset = stream

    def num_examples(self, dataloader: DataLoader) -> int:
        shared: Any = dataloader.dataset
        is_counted = isinstance(shared, SharedStream) and shared.has_places
        return shared.stream.count_samples() if is_counted else super().num_examples(dataloader)

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, *args: Any, **kwargs: Any
    ):
        found = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, *args, **kwargs)
        found = self._place.resume(self, num_update_steps_per_epoch) or found
        # Transformers 5.23 begins the epoch in which a finished run ended, and makes one step more before it looks
        return (num_train_epochs, 0) if self.state.global_step >= self.state.max_steps > 0 else found

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._aside is None else str(self._aside)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        output = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        written = output / WRITING / name
        pushes, limit = self.args.push_to_hub, self.args.save_total_limit
        if self._place.shared is not None:
            kept: Any = self.state.stateful_callbacks
            kept[NAME] = self._place.kept(self.args)
        try:
            with self._writing_aside(output / WRITING):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            is_best = self.state.best_model_checkpoint == str(written)
            if is_best:
                self.state.best_model_checkpoint = str(output / name)  # in every process: each loads the best one
            if self.args.should_save:
                if is_best:
                    self.state.save_to_json(str(written / STATE))
                put_in_place(written, output)
                (output / WRITING).rmdir()
        except Exception as fault:
            cause = cause_of(fault, output)
            shutil.rmtree(output / WRITING, ignore_errors=True)
            if cause is None:
                raise
            older = newest_complete(output)
            left = "there is no older checkpoint" if older is None else f"the newest complete checkpoint is {older}"
            words = f"{os.strerror(cause.errno or 0)} while saving {name}; {left}"
            raise OSError(cause.errno, words, str(output)) from fault
        self.accelerator.wait_for_everyone()
        if pushes:
            self._push_from_checkpoint(str(output / name))
        if self.args.should_save:
            rotate(output, limit, self.state.best_model_checkpoint)

    def prediction_step(self, *args: Any, **kwargs: Any):
        """As in Seq2SeqTrainer, which fills the model's generation settings with defaults (max_length=20) and saves
        them with the model: here they stay as they were."""
        bare: Any = self.accelerator.unwrap_model(self.model)
        bare = bare.get_base_model() if hasattr(bare, "get_base_model") else bare
        before = copy.deepcopy(getattr(bare, "generation_config", None))
        try:
            return super().prediction_step(*args, **kwargs)
        finally:
            if before is not None:
                bare.generation_config = before

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """As in Transformers, without tied weights: a checkpoint holds them once, under the other name."""
        tied = getattr(self.accelerator.unwrap_model(self.model), "all_tied_weights_keys", None) or {}
        missing = [name for name in load_result.missing_keys if name not in tied]
        if len(missing) < len(load_result.missing_keys):
            load_result = load_result._replace(missing_keys=missing)
        super()._issue_warnings_after_load(load_result)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call=True)
        if _internal_call:
            return
        if self.args.should_save:
            write_manifest(str(output_dir or self.args.output_dir))
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    @contextmanager
    def _writing_aside(self, folder: Path):
        """While Trainer writes: into this folder, without a push and without deleting anything."""
        pushes, limit = self.args.push_to_hub, self.args.save_total_limit
        self._aside, self.args.push_to_hub, self.args.save_total_limit = folder, False, None
        try:
            yield
        finally:
            self._aside, self.args.push_to_hub, self.args.save_total_limit = None, pushes, limit
