"""Pre-trains a small new model with all five losses on a folder of pictures, then lets it caption and search them.

    python examples/pretrain_and_caption.py examples/pictures --output_dir runs/pretrained --max_steps 150

The text of a picture is its file name (red_apple.png: "red apple"). Twelve pictures are enough to see every part work
together, and far too few to learn anything of others. Every argument of Transformers' TrainingArguments may follow.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoProcessor, HfArgumentParser, Trainer, TrainingArguments

import mm

LOSSES = ("itc", "itm", "lm", "mlm", "mim")
WIDTH, PATCH = 64, 16


@dataclass
class Arguments(TrainingArguments):
    processor: str = field(default="checkpoints/mm-tiny", metadata={"help": "a folder or Hub id"})
    learning_rate: float = field(default=1.5e-3, metadata={"help": "of AdamW"})
    per_device_train_batch_size: int = field(default=12, metadata={"help": "pictures; matching needs many"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "the collator reads the columns"})
    save_strategy: str = field(default="no", metadata={"help": "the model is saved at the end"})


def new_model(processor) -> mm.MMForPreTraining:
    """A model of two layers of width 64 that has every loss."""
    start = {"initializer_range": WIDTH**-0.5}  # 0.02 is for widths near 768
    size = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    height = processor.image_processor.size["height"]
    return mm.MMForPreTraining(
        mm.MMConfig.preset(
            "mm-base",
            tokenizer=processor.tokenizer,
            vision_config={**size, **start, "image_size": height, "patch_size": PATCH, "use_mask_token": True},
            text_config={**size, **start},
            share_text_encoder=True,
            pretraining_losses=dict.fromkeys(LOSSES, 1.0),
            **start,
        )
    )


def main(folder: Path, arguments: Arguments) -> None:
    processor = AutoProcessor.from_pretrained(arguments.processor)
    files = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
    names = [path.stem.replace("_", " ") for path in files]
    samples = [{"id": name, "image": str(path), "suffix": name} for name, path in zip(names, files, strict=True)]
    collator = mm.MMDataCollator(processor, mlm_probability=0.3, mim_ratio=0.5, patch_size=PATCH, return_loss=True)
    torch.manual_seed(arguments.seed)
    model = new_model(processor)
    Trainer(model=model, args=arguments, train_dataset=samples, data_collator=collator).train()  # pyright: ignore[reportArgumentType]: a list is a data set
    model.save_pretrained(arguments.output_dir)
    processor.save_pretrained(arguments.output_dir)

    captioner = mm.MMForConditionalGeneration.from_pretrained(arguments.output_dir)
    inputs = processor(files, names, add_eos_token=True, return_tensors="pt")  # closed, as in training
    written = captioner.generate(pixel_values=inputs["pixel_values"], max_new_tokens=12)
    captions = processor.batch_decode(written, skip_special_tokens=True)
    retriever = mm.MMForImageTextRetrieval.from_pretrained(arguments.output_dir)
    with torch.no_grad():
        logits = retriever(**{name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")})
    nearest = logits.logits_per_text.argmax(1).tolist()
    for name, caption, found in zip(names, captions, nearest, strict=True):
        sys.stdout.write(f"{name}: caption {caption!r}, nearest picture {names[found]!r}\n")


if __name__ == "__main__":
    parsed: tuple = HfArgumentParser(Arguments).parse_args_into_dataclasses(args=sys.argv[2:])  # pyright: ignore[reportArgumentType]
    main(Path(sys.argv[1]), parsed[0])
