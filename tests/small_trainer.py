"""A small captioner on four coloured pictures, ready to be trained for a few steps."""

import torch
from PIL import Image
from transformers import Seq2SeqTrainingArguments

import mm
from mm.training.trainer import MMTrainer


def small_trainer(output, processor, callbacks=(), **settings) -> MMTrainer:
    """A trainer of four steps: always the same model and data."""
    torch.manual_seed(0)
    parts = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = mm.MMConfig(
        vision_config={**parts, "image_size": 128, "patch_size": 64},
        text_config={
            **parts, "vocab_size": len(processor.tokenizer), "max_position_embeddings": 32, "hidden_dropout": 0.1,
            "bos_token_id": processor.tokenizer.bos_token_id or processor.tokenizer.cls_token_id,
            "eos_token_id": processor.tokenizer.eos_token_id or processor.tokenizer.sep_token_id,
            "pad_token_id": processor.tokenizer.pad_token_id,
        },
    )  # fmt: skip
    colours = ("red", "green", "blue", "white")
    pictures = {name: Image.new("RGB", (8, 8), name) for name in colours}
    samples = [{"id": name, "image": image, "suffix": f"a {name} square"} for name, image in pictures.items()]
    wanted = {
        "output_dir": str(output), "max_steps": 4, "save_steps": 1, "logging_steps": 1,
        "per_device_train_batch_size": 2, "remove_unused_columns": False, "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "learning_rate": 1e-2,
    }  # fmt: skip
    return MMTrainer(
        model=mm.MMForConditionalGeneration(config),
        args=Seq2SeqTrainingArguments(**{**wanted, **settings}),
        train_dataset=samples,
        eval_dataset=samples,
        data_collator=mm.MMDataCollator(processor),
        callbacks=list(callbacks),
    )
