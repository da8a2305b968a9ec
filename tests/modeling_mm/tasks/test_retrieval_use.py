"""MMForImageTextRetrieval in Transformers: checkpoints, Auto classes, pipeline, Trainer."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForZeroShotImageClassification,
    BertTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from comparing import close, same_weights
from mm import MMDataCollator, MMForImageTextRetrieval, MMImageProcessorPil, MMProcessor

FUSIONS = ["cross_attention", "co_attention", "merged", "concat", "sum", "gated"]
IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2], [1, 5, 8, 2], [1, 9, 9, 9], [1, 3, 5, 7]])
INDEX = torch.tensor([0, 0, 1, 2, 2, 2])


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_checkpoint_loads_bit_by_bit_and_whole(retriever, pixels, tmp_path):
    model = retriever(contrastive_loss="sigmoid", logit_bias_init_value=-10)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForZeroShotImageClassification.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(loaded) is MMForImageTextRetrieval
    given = {"input_ids": IDS[:3], "pixel_values": pixels, "return_loss": True}
    same_weights(loaded, model)
    close(loaded(**given).loss, model(**given).loss)
    _, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and {key.split(".")[0] for key in info["unexpected_keys"]} == {
        "itc_head", "itm_head"
    }  # fmt: skip


def test_new_heads_over_a_base_start_from_their_settings(retriever, tmp_path):
    retriever().model.save_pretrained(tmp_path)
    model = MMForImageTextRetrieval.from_pretrained(
        tmp_path, contrastive_loss="sigmoid", logit_bias_init_value=-10.0, logit_scale_init_value=2.0
    )
    assert model.itc_head.logit_scale.item() == 2 and model.itc_head.logit_bias.item() == -10


WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "red", "green", "blue", *(f"w{n}" for n in range(42))]


@pytest.fixture(scope="module")
def processor():
    tokenizer = BertTokenizer(
        vocab={word: number for number, word in enumerate(WORDS)},
        bos_token="[CLS]", eos_token="[SEP]", model_max_length=32,
    )  # fmt: skip
    return MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, add_eos_token=True)


def test_the_pipeline_classifies_by_candidate_labels(retriever, processor):
    model = retriever().float()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    classify = pipeline(
        "zero-shot-image-classification", model=model, tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
    )  # fmt: skip
    found = classify(picture, candidate_labels=["red", "green blue"], hypothesis_template="{}")
    inputs = processor(images=picture, return_tensors="pt")
    rows = processor.tokenizer(["red", "green blue"], padding=True, return_tensors="pt")
    expected = model(**rows, **inputs).logits_per_image.softmax(-1)[0].tolist()
    scores = {one["label"]: one["score"] for one in found}
    assert_close([scores["red"], scores["green blue"]], expected)


def test_trainer_trains_and_gets_the_embeddings(retriever, processor, tmp_path):
    model = retriever().float()
    colours = ["red", "green", "blue"]
    samples = [{"image": Image.new("RGB", (20, 20), name), "text": name} for name in colours] * 3
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=3, per_device_eval_batch_size=3, num_train_epochs=10,
        learning_rate=3e-3, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
        remove_unused_columns=False,
    )  # fmt: skip
    seen = []
    trainer = Trainer(
        model=model, args=arguments, train_dataset=samples, eval_dataset=samples,
        data_collator=MMDataCollator(processor, return_loss=True),
        compute_metrics=lambda result: seen.append(result) or {"rows": len(result.predictions[0])},
    )  # fmt: skip
    assert not trainer.model_accepts_loss_kwargs and trainer.label_names == []
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"] and after["eval_rows"] == 9
    itm_logits, image_embeds, text_embeds = seen[-1].predictions
    assert itm_logits.shape == (9, 2) and image_embeds.shape == text_embeds.shape == (9, 12)
    assert (seen[-1].label_ids is None) or len(seen[-1].label_ids) == 0
