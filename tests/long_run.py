"""A long training, to be told to end: python tests/long_run.py OUTPUT '{"dataloader_num_workers": 2}'

Each process writes its number into OUTPUT/pid-RANK once it has trained two steps, and what it ended with into
OUTPUT/end-RANK. Runs under torchrun too.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

import mm
from small_trainer import small_trainer

PACKAGED = Path(__file__).parents[1] / "checkpoints" / "mm-tiny"


class Told(TrainerCallback):
    def __init__(self, output: Path):
        self.output, self.rank = output, os.environ.get("RANK", "0")

    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(0.02)  # the signal comes within the run
        if state.global_step == 2:
            (self.output / f"pid-{self.rank}").write_text(str(os.getpid()))


def main(output: Path, settings: dict) -> None:
    torch.set_num_threads(1)
    output.mkdir(exist_ok=True)
    told = Told(output)
    wanted = {"max_steps": 5000, "save_steps": 5000, "logging_steps": 5000, **settings}
    run = small_trainer(output, mm.MMProcessor.from_pretrained(PACKAGED), [told], **wanted)
    run.train()
    weights = sum(value.double().sum().item() for value in run.model.parameters())
    held = {"step": run.state.global_step, "weights": weights}
    (output / f"end-{told.rank}").write_text(json.dumps(held))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
