"""EndWhenTold in several processes, by itself: a signal is never lost, whenever it comes."""

import signal
from types import SimpleNamespace

import pytest
from transformers import TrainerControl

from mm.training.ending import EndWhenTold


class Asking:
    """An accelerator of two processes that tells itself SIGTERM while they ask each other."""

    def __init__(self, during: int):
        self.asked, self.during, self.trigger = 0, during, False

    def set_trigger(self):
        self.trigger = True

    def check_trigger(self) -> bool:
        self.asked += 1
        found, self.trigger = self.trigger, False
        if self.asked == self.during:
            signal.raise_signal(signal.SIGTERM)
        return found


@pytest.mark.parametrize("during", [1, 3])
def test_a_signal_that_comes_while_processes_ask_each_other_ends_the_next_step(during):
    accelerator = Asking(during)
    told = EndWhenTold(SimpleNamespace(accelerator=accelerator))
    control, two = TrainerControl(), SimpleNamespace(world_size=2)
    before = signal.getsignal(signal.SIGTERM)
    told.on_train_begin(two, None, control)
    try:
        steps = 0
        while not control.should_training_stop and steps < 9:
            told.on_step_end(two, None, control)
            steps += 1
    finally:
        told.on_train_end(two, SimpleNamespace(global_step=steps), control)
    assert steps == during + 1 and control.should_save
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_signal_after_the_last_step_ends_nothing(world_size, caplog):
    """The run finishes and saves as it would without it, and nothing says that it was ended."""
    accelerator, control = Asking(during=0), TrainerControl()
    told, args = EndWhenTold(SimpleNamespace(accelerator=accelerator)), SimpleNamespace(world_size=world_size)
    told.on_train_begin(args, None, control)
    told.on_step_end(args, None, control)
    signal.raise_signal(signal.SIGTERM)
    told.on_train_end(args, SimpleNamespace(global_step=1), control)
    assert not told.has_ended and not control.should_save and "SIGTERM" not in caplog.text
