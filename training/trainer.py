"""MMTrainer: Seq2SeqTrainer whose checkpoints survive, and that ends cleanly when it is told to."""

import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from .checkpoints import STATE, WRITING, cause_of, checkpoints, clean, lock, newest_complete, put_in_place, rotate
from .pushes import PushingTrainer
from .verify import write_manifest

logger = logging.get_logger(__name__)


class MMTrainer(PushingTrainer):
    """Seq2SeqTrainer with safe checkpoints; everything else is as it is there.

    * A checkpoint is written aside with the SHA-256 of its files (manifest.json), then renamed into place, so a kill
      at any moment leaves complete ones.
    * `train(resume_from_checkpoint=True)` takes the newest complete checkpoint, every byte checked, and says which; it
      starts anew where there is none.
    * `save_total_limit` deletes only complete checkpoints, never the newest of them.
    * A second run into the same output folder raises BlockingIOError.
    * A full disk, a read-only folder or an input/output error raises OSError with that word; older checkpoints stay.
    * SIGTERM saves a checkpoint after the current step and ends the training.
    * A push to the Hub is one commit with code and card, which deletes what it replaces (docs/publishing.md).
    """

    _aside: Path | None = None  # where a checkpoint is being written

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(_EndWhenTold(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        output = Path(str(self.args.output_dir))
        held = None
        if self.args.should_save:
            held = lock(output)
            clean(output)
        try:
            if resume_from_checkpoint is True:
                found = newest_complete(output, logger.warning)
                resume_from_checkpoint = None if found is None else str(found)
                if found is None and checkpoints(output):
                    logger.warning(f"no checkpoint in {output} is complete: the training begins anew")
                elif found is not None and self.args.should_log:
                    logger.warning(f"resuming from {found}")
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if held is not None:
                held.close()

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._aside is None else str(self._aside)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        output = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        written = output / WRITING / name
        pushes, limit = self.args.push_to_hub, self.args.save_total_limit
        try:
            with self._writing_aside(output / WRITING):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                if self.state.best_model_checkpoint == str(written):
                    self.state.best_model_checkpoint = str(output / name)
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


class _EndWhenTold(TrainerCallback):
    """Turns SIGTERM into: save after this step, then end. In several processes all end when one was told."""

    def __init__(self, trainer: MMTrainer):
        self.trainer, self.told, self.before = trainer, False, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.told = False
        try:
            self.before = signal.signal(signal.SIGTERM, self._tell)
        except ValueError:  # not the main thread: nobody can catch signals here
            self.before = None

    def _tell(self, number: int, frame: Any) -> None:
        self.told = True

    def on_step_end(self, args, state, control, **kwargs):
        accelerator = self.trainer.accelerator
        if args.world_size > 1:
            if self.told:
                accelerator.set_trigger()
            self.told = accelerator.check_trigger()
        if self.told:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)
        if self.told:
            logger.warning(f"SIGTERM: the training ended after step {state.global_step}, which is saved")
