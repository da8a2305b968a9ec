"""How near the memory estimate of `mm train --dry-run` is to real steps on the CPU: a process for each model.

    OMP_NUM_THREADS=1 python benchmarks/plan_memory.py > benchmarks/logs/plan_memory.txt

real: the most that a process holds during the third step of AdamW, over what it held before the model was built.
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile

import torch
import transformers
from transformers import Seq2SeqTrainingArguments

import mm
from mm.training.plan import describe_plan

NAMES = ("rocket", "guitar", "penguin", "camera", "elephant", "bicycle", "octopus", "hamburger")
CASES = {
    "mm-tiny captioner, batch 64": ("tiny", 64, {}),
    "mm-tiny captioner, tower frozen, batch 64": ("tiny-frozen", 64, {}),
    "mm-small captioner, batch 8": ("small", 8, {}),
    "mm-small captioner, batch 8, gradient checkpointing": ("small", 8, {"gradient_checkpointing": True}),
    "mm-small retrieval, batch 16": ("retrieval", 16, {}),
}


def held(name: str) -> int:
    """Bytes, of VmRSS or VmHWM (the most since the last reset)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def settled() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return held("VmRSS")


def built(kind: str):
    processor = mm.MMProcessor.from_pretrained("checkpoints/mm-tiny")
    if kind.startswith("tiny"):
        model = mm.MMForConditionalGeneration.from_pretrained("checkpoints/mm-tiny")
        return (model.freeze("vision") if kind == "tiny-frozen" else model), processor
    processor.image_processor.size = {"height": 224, "width": 224}
    changes = {"text_config": {"is_causal": False}} if kind == "retrieval" else {}
    config = mm.MMConfig.preset("mm-small", tokenizer=processor.tokenizer, **changes)
    cls = mm.MMForImageTextRetrieval if kind == "retrieval" else mm.MMForConditionalGeneration
    return cls(config), processor


def measure(kind: str, size: int, settings: dict) -> tuple[int, int]:
    """(estimated, real) bytes of a step."""
    column = "text" if kind == "retrieval" else "suffix"
    data = [
        {"image": f"examples/pictures/{NAMES[number % 8]}.png", column: f"a picture of number {number}"}
        for number in range(size)
    ]
    with tempfile.TemporaryDirectory() as folder:
        training = Seq2SeqTrainingArguments(folder, use_cpu=True, per_device_train_batch_size=size, **settings)
    processor = built(kind)[1]
    collator = mm.MMDataCollator(processor, return_loss=kind == "retrieval", share_media=False)
    batch = collator(data)
    before = settled()
    model, _ = built(kind)
    model.train()
    if settings:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad])
    for step in range(3):
        if step == 2:
            settled()
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # VmHWM begins anew
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    real = held("VmHWM") - before
    del optimizer
    estimated = describe_plan(model, processor, training, data, collator=collator).memory
    assert estimated is not None
    return estimated.total, real


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help="this one only, in this process")
    chosen = parser.parse_args().case
    if chosen:
        estimated, real = measure(*CASES[chosen])
        print(f"{chosen:52} {estimated / 2**20:8.0f} MiB {real / 2**20:8.0f} MiB {estimated / real - 1:+7.0%}")
        return
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {os.cpu_count()} cores, fp32, AdamW")
    print(f"{'':52} {'estimated':>12} {'real':>12}   error", flush=True)
    for case in CASES:
        subprocess.run([sys.executable, "-W", "ignore", __file__, "--case", case], check=True)


if __name__ == "__main__":
    main()
