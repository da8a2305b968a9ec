"""SIGTERM ends a training after the current step, which is saved; its workers live on for that step."""

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.utils import logging

logger = logging.get_logger(__name__)


def outlive_sigterm(loader: Any) -> Any:
    """The same loader; its workers go on for a minute when they are told to end, so that the step can be saved.

    SIGTERM is often sent to all processes of a run. Torch's workers end at once, and the run with them.
    """
    inner: Any = getattr(loader, "base_dataloader", loader)  # within accelerate's, which hands reads on
    if getattr(inner, "num_workers", 0) and hasattr(signal, "pthread_sigmask"):
        inner.worker_init_fn = partial(_end_later, inner.worker_init_fn)
        inner._get_iterator = partial(_start_workers, inner._get_iterator)
    return loader


def _start_workers(start: Callable[[], Any]) -> Any:
    """Starts workers in which SIGTERM waits until `_end_later`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        return start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_later(init: Callable[[int], None] | None, worker: int) -> None:
    """In a worker: SIGTERM ends it after a minute."""
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(60))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if init is not None:
        init(worker)


class EndWhenTold(TrainerCallback):
    """Turns SIGTERM into: save after this step, then end. In several processes all end when one was told.

    has_ended: whether it ended the training. A signal that comes after the last step has nothing to end: the run
    finishes as it would without it.
    """

    def __init__(self, trainer: Trainer):
        self.trainer, self.told, self.has_ended, self.before = trainer, False, False, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.told = self.has_ended = False
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
            self.has_ended = accelerator.check_trigger()  # a signal that comes meanwhile counts in the next step
        else:
            self.has_ended = self.told
        if self.has_ended:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)
        if self.has_ended:
            logger.warning(f"SIGTERM: the training ended after step {state.global_step}, which is saved")
