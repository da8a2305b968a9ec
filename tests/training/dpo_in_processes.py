"""One process of a DPO training by TRL: a small captioner, 8 pairs in a step over all processes.

torchrun --nproc-per-node 2 tests/training/dpo_in_processes.py FOLDER      # FOLDER/PROCESSES.pt are the weights
"""

import copy
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
import trl
from PIL import Image

import mm

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
from small_trainer import small_trainer  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]


def main(folder: Path, processes: int) -> None:
    processor = mm.MMProcessor.from_pretrained(TESTS.parent / "checkpoints/mm-tiny")
    config: Any = small_trainer(folder, processor).model.config
    config.lm_head_transform, config.text_config.hidden_dropout = False, 0.0
    torch.manual_seed(0)
    model = mm.MMForConditionalGeneration(config).eval()
    samples = [
        {"image": Image.new("RGB", (8, 8), (n * 30, 0, 0)), "prompt": "", "chosen": f"red {n}", "rejected": "a heart"}
        for n in range(8)
    ]
    settings = trl.DPOConfig(
        str(folder / "dpo"), max_steps=3, per_device_train_batch_size=8 // processes, learning_rate=1e-2,
        report_to="none", remove_unused_columns=False, use_cpu=True, disable_tqdm=True, bf16=False,
        gradient_checkpointing=False, max_length=None, save_strategy="no",
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=model, ref_model=copy.deepcopy(model), args=settings, train_dataset=datasets.Dataset.from_list(samples),
        data_collator=mm.MMPreferenceCollator(processor, model), processing_class=processor,
    )  # fmt: skip
    trainer.train()
    if trainer.accelerator.is_main_process:
        torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), folder / f"{processes}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ.get("WORLD_SIZE", "1")))
