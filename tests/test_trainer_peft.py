"""An adapter (PEFT) under Transformers' Trainer: it learns, goes on, is saved, and counts each token once."""

# Fixtures build models whose types pyright cannot follow, and a PeftModel hands on what its model has.

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText, BertTokenizer, Trainer, TrainingArguments

from mm import MMDataCollator, MMForConditionalGeneration, MMImageProcessorPil, MMProcessor

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "red", "green", "blue", "square"]


def adapted(model) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=4, target_modules=r".*language_model\.layers.*_proj"))


def trainer(model, folder, **settings) -> Trainer:
    tokenizer = BertTokenizer(
        vocab={word: i for i, word in enumerate(WORDS)}, bos_token="[CLS]", eos_token="[SEP]", model_max_length=32
    )
    processor = MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)
    samples = [
        {"image": Image.new("RGB", (20, 20), WORDS[4 + i % 3]), "suffix": f"{WORDS[4 + i % 3]}{' square' * (i % 5)}"}
        for i in range(12)
    ]
    defaults = {"per_device_train_batch_size": 4, "num_train_epochs": 4, "save_strategy": "no"}
    arguments = TrainingArguments(
        str(folder), learning_rate=3e-2, report_to="none", use_cpu=True, remove_unused_columns=False,
        disable_tqdm=True, **{**defaults, **settings},
    )  # fmt: skip
    return Trainer(
        model, arguments, MMDataCollator(processor), train_dataset=samples, eval_dataset=samples,
        processing_class=processor,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}], ids=["plain", "checkpointing"])
def test_trainer_trains_resumes_and_saves_an_adapter(tiny_model, settings, tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "base")

    def fresh():
        return adapted(MMForConditionalGeneration.from_pretrained(tmp_path / "base"))

    whole = trainer(fresh(), tmp_path / "runs", save_strategy="steps", save_steps=6, **settings)
    before = whole.evaluate()["eval_loss"]
    whole.train()
    assert whole.evaluate()["eval_loss"] < 0.8 * before
    whole.save_model(str(tmp_path / "mine"))
    resumed = trainer(fresh(), tmp_path / "again", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "runs" / "checkpoint-6"))
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "mine")
    expected = {name: p for name, p in whole.model.base_model.model.named_parameters() if "lora_" in name}
    for model in (resumed.model.base_model.model, loaded):
        found = dict(model.named_parameters())
        assert expected and all(torch.equal(found[name], value) for name, value in expected.items())
    assert MMProcessor.from_pretrained(tmp_path / "mine").tokenizer.vocab_size == len(WORDS)


@pytest.mark.slow
def test_accumulated_steps_of_an_adapter_count_every_token_once(tiny_model, tmp_path):
    """num_items_in_batch goes through PEFT's forward: captions are of unequal length."""
    runs = []
    for size, steps in ((4, 1), (1, 4)):
        peft = adapted(tiny_model())
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer(peft, tmp_path, optim="sgd", max_grad_norm=0, train_sampling_strategy="sequential", **settings).train()
        runs.append([p.detach() for p in peft.parameters() if p.requires_grad])
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)
