"""train_log.jsonl: a line for each logging event of Trainer, written while the training runs.

The file is always what Trainer's own log_history holds: when a training goes on from a checkpoint, lines of steps that
are trained again go.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

NAME = "train_log.jsonl"


class JsonlLog(TrainerCallback):
    """Keeps train_log.jsonl in output_dir up to date, from the main process."""

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_log(state.log_history, str(args.output_dir))

    def on_log(self, args, state, control, **kwargs):
        if state.is_world_process_zero and state.log_history:
            path = Path(str(args.output_dir)) / NAME
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(_line(state.log_history[-1]))


def write_log(history: Iterable[Mapping[str, Any]], folder: str | os.PathLike) -> Path:
    """The whole log anew. Returns its path."""
    path = Path(folder) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(_line(event) for event in history), encoding="utf-8")
    return path


def _line(event: Mapping[str, Any]) -> str:
    """JSON has no NaN: numbers that are not finite become the words "nan", "inf" and "-inf"."""
    told = {
        name: str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in event.items()
    }
    return json.dumps(told) + "\n"
