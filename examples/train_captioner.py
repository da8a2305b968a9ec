"""Fine-tunes a captioner on pictures of your own, in one process or several.

    python examples/train_captioner.py samples.jsonl --output_dir runs/mine --num_train_epochs 10
    torchrun --nproc_per_node 2 examples/train_captioner.py samples.jsonl --output_dir runs/mine

Each line of samples.jsonl is a sample: {"image": "rocket.png", "suffix": "a rocket"}, paths from the file's folder. A
line may have "text", a prompt before the caption, and may lack a picture (or say null). Rename other columns:
--columns '{"file": "image", "caption": "suffix"}'. Every argument of Transformers'
TrainingArguments may follow.
"""

# HfArgumentParser takes a dataclass, whatever its annotation says.

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor, HfArgumentParser, Trainer, TrainingArguments

import mm


@dataclass
class Arguments(TrainingArguments):
    model: str = field(default="checkpoints/mm-tiny", metadata={"help": "a folder or Hub id to start from"})
    columns: str = field(default="{}", metadata={"help": "JSON: the collator's names for the columns of the samples"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator reads the columns"})


MEDIA = ("image", "images", "video", "videos", "audio", "audios")


def read_samples(path: Path, columns: dict[str, str] | None = None) -> list[dict]:
    """The samples of a file of JSON Lines (UTF-8), their paths from its folder. A line ends only at a line feed: JSON
    may contain the other line ends of Python's splitlines."""
    samples, media = [], {name for name, ours in (columns or {}).items() if ours in MEDIA}.union(MEDIA)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                sample = json.loads(line.encode("utf-8", "surrogateescape"))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}, line {number}: no JSON in UTF-8 ({error})") from error
            if not isinstance(sample, dict):
                raise ValueError(f"{path}, line {number}: an object is wanted; got {line.strip():.80}")
            samples.append({k: _from_folder(v, path.parent) if k in media else v for k, v in sample.items()})
    return samples


def _from_folder(source, folder: Path):
    if isinstance(source, list):
        return [_from_folder(one, folder) for one in source]
    is_path = isinstance(source, str) and not source.startswith(("data:", "http://", "https://"))
    return str(folder / source) if is_path else source


def main(samples: str, arguments: Arguments) -> None:
    processor, columns = AutoProcessor.from_pretrained(arguments.model), json.loads(arguments.columns)
    trainer = Trainer(
        model=AutoModelForImageTextToText.from_pretrained(arguments.model),
        args=arguments,
        train_dataset=read_samples(Path(samples), columns),
        data_collator=mm.MMDataCollator(processor, columns=columns),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1], HfArgumentParser(Arguments).parse_args_into_dataclasses(sys.argv[2:])[0])
