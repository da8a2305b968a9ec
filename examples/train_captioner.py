"""Fine-tunes a captioner on pictures of your own, in one process or several.

    python examples/train_captioner.py samples.jsonl --output_dir runs/mine --num_train_epochs 10
    torchrun --nproc_per_node 2 examples/train_captioner.py samples.jsonl --output_dir runs/mine

Each line of samples.jsonl is a sample: {"image": "rocket.png", "suffix": "a rocket"}, paths from the file's folder. A
line may have "text", a prompt that the caption follows, and need not have a picture. Every argument of Transformers'
TrainingArguments may follow.
"""

# HfArgumentParser takes a dataclass, whatever its annotation says.
# pyright: reportArgumentType=false

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor, HfArgumentParser, Trainer, TrainingArguments

import mm


@dataclass
class Arguments(TrainingArguments):
    model: str = field(default="checkpoints/mm-tiny", metadata={"help": "a folder or Hub id to start from"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator reads the columns"})


def read_samples(path: Path) -> list[dict]:
    samples = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [{**s, "image": str(path.parent / s["image"])} if "image" in s else s for s in samples]


def main(samples: str, arguments: Arguments) -> None:
    processor = AutoProcessor.from_pretrained(arguments.model)
    trainer = Trainer(
        model=AutoModelForImageTextToText.from_pretrained(arguments.model),
        args=arguments,
        train_dataset=read_samples(Path(samples)),
        data_collator=mm.MMDataCollator(processor),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1], HfArgumentParser(Arguments).parse_args_into_dataclasses(sys.argv[2:])[0])
