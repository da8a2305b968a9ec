"""Saves checkpoints in children that are killed at random moments; says what was found after each.

    python tests/killed_saves.py OUTPUT KILLS

A process of its own, as only one with a single thread can be forked safely. Writes a line of JSON:
{"cut": kills within a save, "faults": [what was not as it should be]}.
"""

import json
import os
import random
import select
import signal
import sys
import threading
import time
from pathlib import Path

import torch
import tqdm

import mm
from mm.training.checkpoints import WRITING, clean, newest_complete
from small_trainer import small_trainer

PATIENCE = 60  # seconds for one save


def saves(run, first: int, writer: int) -> None:
    """The child: saves step after step, and tells each one that is done."""
    try:
        for step in range(first, first + 1000):
            run.state.global_step = step
            run._save_checkpoint(run.model, None)
            os.write(writer, step.to_bytes(4, "big"))
    finally:
        os._exit(1)


def killed(run, first: int, after: float) -> list[int]:
    """The steps that a child told of before it was killed, `after` seconds behind its first one."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        saves(run, first, writer)
    os.close(writer)
    told = []
    if select.select([reader], [], [], PATIENCE)[0]:
        told.append(int.from_bytes(os.read(reader, 4), "big"))
        time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while data := os.read(reader, 4):
        told.append(int.from_bytes(data, "big"))
    os.close(reader)
    return told


def main(output: Path, kills: int) -> None:
    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0  # no thread
    tqdm.tqdm.set_lock(threading.RLock())  # its own is shared with children, and stays held by one that is killed
    run = small_trainer(output, mm.MMProcessor.from_pretrained("checkpoints/mm-tiny"), max_steps=1)
    run.train()
    luck, cut, faults = random.Random(0), 0, []
    for kill in range(kills):
        told = killed(run, 10_000 * (kill + 1), luck.uniform(0, 0.15))
        cut += (output / WRITING).exists()
        found = newest_complete(output)
        state = None if found is None else json.loads((found / "trainer_state.json").read_text())["global_step"]
        # it may have been put in place and not told yet
        if not told or state is None or state - told[-1] not in (0, 1) or found.name != f"checkpoint-{state}":
            faults.append(f"kill {kill}: told {told[-1:]}, found {found}")
        clean(output)
    sys.stdout.write(json.dumps({"cut": cut, "faults": faults}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
