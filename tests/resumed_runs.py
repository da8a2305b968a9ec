"""Trains 24 steps, kills the run at a step, goes on in a new process; the weights must be those of a run without kill.

    python tests/resumed_runs.py [--cases 0,5,9] [--steps 1,2,24]

The matrix: fp32 or bf16, 0 or 2 workers, accumulation of 1 or 2. Pictures are augmented, tokens and patches masked,
dropout and an average of the weights (EMA) are on; the weights and their average are compared. Every run is a child of
this process, which has a single thread, and ends by SIGKILL: after the step, before its save. Prints a line for each
case, then one of JSON: {"runs": how many were killed and resumed, "faults": [which ended with other weights]}.
"""

import argparse
import hashlib
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tqdm
from PIL import Image
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging

import mm
from mm.training.arguments import MMTrainingArguments
from mm.training.task_trainer import TaskTrainer

STEPS = 24
CASES = list(itertools.product((False, True), (0, 2), (1, 2)))  # bf16, workers, accumulation
COLOURS = ("red", "green", "blue", "white", "black", "yellow", "purple", "orange", "brown", "pink")
PACKAGED = Path(__file__).parents[1] / "checkpoints" / "mm-tiny"


class Watch(TrainerCallback):
    """Ends the process after a step, before it is saved; keeps the hash of the weights at the end of the training."""

    def __init__(self, kill: int | None):
        self.kill, self.weights = kill, ""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.weights = hash_of(model)


def hash_of(model: torch.nn.Module) -> str:
    held = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        held.update(name.encode() + value.detach().numpy().tobytes())
    return held.hexdigest()


def turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another picture by each draw."""
    return Image.fromarray(np.asarray(image) // 2 + rng.integers(0, 128, 3, dtype=np.uint8))


def build(output: Path, case: tuple, callbacks: list) -> TaskTrainer:
    """A trainer of 24 steps in several epochs; always the same model and data."""
    bf16, workers, accumulation = case
    processor = mm.MMProcessor.from_pretrained(PACKAGED)
    torch.manual_seed(0)
    parts = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = mm.MMConfig(
        vision_config={**parts, "image_size": 128, "patch_size": 64, "use_mask_token": True},
        text_config={
            **parts, **ids, "vocab_size": len(processor.tokenizer), "max_position_embeddings": 32,
            "hidden_dropout": 0.1,
        },
        share_text_encoder=True,
        pretraining_losses={"lm": 1.0, "mlm": 1.0, "mim": 1.0},
    )  # fmt: skip
    samples = [{"id": name, "image": Image.new("RGB", (8, 8), name), "suffix": f"a {name} square"} for name in COLOURS]
    collator = mm.MMDataCollator(
        processor, augment=turned, mlm_probability=0.5, mim_ratio=0.5, patch_size=64, return_loss=True
    )
    settings = {
        "output_dir": str(output), "max_steps": STEPS, "save_strategy": "steps", "save_steps": 1,
        "save_total_limit": 2, "eval_strategy": "no", "logging_steps": 1, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": accumulation, "dataloader_num_workers": workers, "bf16": bf16, "ema": 0.9,
        "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-2,
    }  # fmt: skip
    trainer = TaskTrainer(
        model=mm.MMForPreTraining(config),
        args=MMTrainingArguments(**settings),
        train_dataset=samples,
        data_collator=collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # a line for each step
    return trainer


def train(output: Path, case: tuple, kill: int | None = None) -> None:
    """Trains on from what there is; at the end writes the hashes of the weights and of their average."""
    watch = Watch(kill)
    trainer = build(output, case, [watch])
    trainer.train(resume_from_checkpoint=True)
    (output / "weights").write_text(f"{trainer.state.global_step} {watch.weights} {hash_of(trainer.model)}")


def in_a_child(work: Callable[[], None]) -> int:
    """How a process that does the work ended: its exit code, or minus the number of the signal."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def resumed(folder: Path, case: tuple, steps: list[int], whole: str) -> list[str]:
    """Faults of the runs that are killed at each of these steps."""
    faults = []
    for step in steps:
        output = folder / f"killed-{step}"
        code = in_a_child(lambda output=output, step=step: train(output, case, step))
        if code != -signal.SIGKILL:
            faults.append(f"{case} step {step}: the first run ended with {code}")
            continue
        if in_a_child(lambda output=output: train(output, case)) or (output / "weights").read_text() != whole:
            faults.append(f"{case} step {step}: other weights")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(map(str, range(len(CASES)))))
    parser.add_argument("--steps", default=",".join(map(str, range(1, STEPS + 1))))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0  # no thread
    tqdm.tqdm.set_lock(threading.RLock())  # its own is shared with children, and stays held by one that is killed
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    faults, runs, steps = [], 0, [int(step) for step in asked.steps.split(",")]
    for number, case in ((int(number), CASES[int(number)]) for number in asked.cases.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "whole"
            if in_a_child(lambda output=output, case=case: train(output, case)):
                faults.append(f"{case}: does not train")
                continue
            found = resumed(Path(folder), case, steps, (output / "weights").read_text())
        faults, runs = faults + found, runs + len(steps)
        bf16, workers, accumulation = case
        sys.stdout.write(
            f"case {number}: {'bf16' if bf16 else 'fp32'}, {workers} workers, accumulation {accumulation}, "
            f"{len(steps) - len(found)} of {len(steps)} with equal weights\n"
        )
    sys.stdout.write(json.dumps({"runs": runs, "faults": faults}) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
