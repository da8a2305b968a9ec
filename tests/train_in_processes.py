"""One process of a training by MMTrainer under torchrun: a small captioner on shards, resumed where a checkpoint is.

    torchrun --nproc_per_node 2 tests/train_in_processes.py FOLDER RUN [--kill PROCESS STEP] [--fsdp] ...

FOLDER holds the shards. --kill: this process kills itself after that step, the first time that it gets there. It waits
there while FOLDER/wait exists, so that a whole node can be killed from outside.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

import mm

sys.path.insert(0, str(Path(__file__).parent))
from small_trainer import small_trainer

CHECKPOINT = Path(__file__).parents[1] / "checkpoints/mm-tiny"


class Killed(TrainerCallback):
    def __init__(self, folder: Path, process: int, step: int):
        self.folder, self.process, self.step = folder, process, step

    def on_step_begin(self, args, state, control, **kwargs):
        is_here = args.process_index == self.process and state.global_step == self.step
        if not is_here or (self.folder / "was-killed").exists():
            return
        (self.folder / "was-killed").touch()
        while (self.folder / "wait").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("run")
    parser.add_argument("--kill", nargs=2, type=int)
    parser.add_argument("--fsdp", action="store_true")
    parser.add_argument("--fsdp-by-trainer", action="store_true")
    parser.add_argument("--steps", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    output, processor = asked.folder / asked.run, mm.MMProcessor.from_pretrained(CHECKPOINT)
    callbacks = [Killed(asked.folder, *asked.kill)] if asked.kill else []
    settings: dict = {"max_steps": asked.steps, "save_steps": 2, "learning_rate": 1e-3, "ddp_timeout": 60}
    settings |= {"save_only_model": True} if asked.fsdp else {}  # Trainer resumes no sharded model
    settings |= {"fsdp": True} if asked.fsdp_by_trainer else {}
    trainer = small_trainer(output, processor, callbacks, **settings)
    if asked.fsdp:
        from transformers.distributed.configuration_utils import DistributedConfig

        start = asked.folder / "start"
        if trainer.args.process_index == 0:
            trainer.model.save_pretrained(start)
        torch.distributed.barrier()
        trainer.accelerator.free_memory()
        plan = DistributedConfig(fsdp_size=int(os.environ["WORLD_SIZE"]))
        model = mm.MMForConditionalGeneration.from_pretrained(start, distributed_config=plan)
        trainer = mm.MMTrainer(model=model, args=trainer.args, data_collator=trainer.data_collator)
    trainer.train_dataset = mm.MMShards(asked.folder, shuffle=4)
    trainer.train(resume_from_checkpoint=not asked.fsdp)
    trainer.save_model()


if __name__ == "__main__":
    main()
