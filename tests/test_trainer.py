"""MM under Transformers' Trainer: what it counts, what it keeps, and that an interrupted run goes on bit for bit."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BertTokenizer, Trainer, TrainingArguments

from mm import MMDataCollator, MMImageProcessorPil, MMProcessor

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "red", "green", "blue", "square"]


@pytest.fixture(scope="module")
def processor():
    tokenizer = BertTokenizer(
        vocab={word: i for i, word in enumerate(WORDS)}, bos_token="[CLS]", eos_token="[SEP]", model_max_length=32
    )
    return MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)


def samples() -> list[dict]:
    colours = ["red", "green", "blue"]
    return [
        {
            "image": Image.new("RGB", (20, 20), colours[i % 3]),
            "suffix": f"{colours[i % 3]}{' square' * (i % 2)}",
            "id": i,
        }
        for i in range(12)
    ]


def brighten(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.point([min(255, int(level * rng.uniform(0.5, 1.5))) for level in range(256)] * 3)


def build(model, processor, folder, **settings) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=3,
        learning_rate=3e-3,
        report_to="none",
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        **{"save_strategy": "no", "num_train_epochs": 2, **settings},
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=samples(),
        data_collator=MMDataCollator(processor, augment=brighten),
        processing_class=processor,
    )


def test_a_run_learns_and_what_it_saves_loads_with_its_processor(tiny_model, processor, tmp_path):
    trainer = build(tiny_model(dtype=torch.float32), processor, tmp_path, num_train_epochs=8)
    first = trainer.evaluate(samples())["eval_loss"]
    trainer.train()
    assert trainer.evaluate(samples())["eval_loss"] < 0.8 * first
    trainer.save_model(str(tmp_path / "mine"))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "mine")
    again = AutoProcessor.from_pretrained(tmp_path / "mine")
    inputs = again(images=[samples()[0]["image"]], return_tensors="pt")
    torch.testing.assert_close(
        model.generate(**inputs, max_new_tokens=4), trainer.model.eval().generate(**inputs, max_new_tokens=4)
    )


@pytest.mark.slow  # tests/training/test_checkpoints.py resumes in the fast run
def test_an_interrupted_run_goes_on_bit_for_bit(tiny_model, processor, tmp_path):
    whole = build(tiny_model(dtype=torch.float32), processor, tmp_path / "whole")
    whole.train()
    settings = {"save_strategy": "steps", "save_steps": 3}
    build(tiny_model(dtype=torch.float32), processor, tmp_path / "parts", **settings).train()
    resumed = build(tiny_model(dtype=torch.float32), processor, tmp_path / "parts", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    for (name, one), (_, other) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.slow
def test_accumulated_batches_give_the_gradient_of_the_large_batch(tiny_model, processor, tmp_path):
    """num_items_in_batch: captions of unequal length are weighted by their tokens, not by their batch."""
    large = build(
        tiny_model(dtype=torch.float32), processor, tmp_path / "a", num_train_epochs=1, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0.0,
    )  # fmt: skip
    large.args.per_device_train_batch_size = large._train_batch_size = 12
    large.train()
    small = build(
        tiny_model(dtype=torch.float32), processor, tmp_path / "b", num_train_epochs=1, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0.0, gradient_accumulation_steps=4,
    )  # fmt: skip
    small.train()
    assert large.state.global_step == small.state.global_step == 1
    for (name, one), (_, other) in zip(large.model.named_parameters(), small.model.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)
