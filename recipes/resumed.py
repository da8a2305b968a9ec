"""Runs of Transformers' Trainer that are resumed: those that have ended make no step more."""

import math
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint


def go_on(trainer: Trainer, resume: bool) -> None:
    """Trains; to resume, from the newest checkpoint in output_dir.

    A run whose checkpoint has all its steps gives its weights: Trainer (5.23) would make one step more of it.
    """
    last = get_last_checkpoint(str(trainer.args.output_dir)) if resume else None
    if last is None or int(last.rpartition("-")[2]) < steps_of(trainer):
        trainer.train(resume_from_checkpoint=last)
        return
    model: Any = trainer.model
    missing, unknown = model.load_state_dict(load_file(Path(last) / "model.safetensors"), strict=False)
    lost = set(missing) - set(getattr(model, "all_tied_weights_keys", None) or ())
    if lost or unknown:
        raise ValueError(f"{last} does not fit: missing {sorted(lost)}, unknown {sorted(unknown)}")


def steps_of(trainer: Trainer) -> int:
    """How many steps the whole run has."""
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    an_epoch = math.ceil(len(trainer.get_train_dataloader()) / args.gradient_accumulation_steps)
    return math.ceil(an_epoch * args.num_train_epochs)
