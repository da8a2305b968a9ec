"""A text that some rows of a batch do not have is absent, as a picture is: processor, collator and heads."""

# Fixtures build models whose types pyright cannot follow.

import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, Trainer, TrainingArguments

from mm import MMDataCollator, MMForSequenceClassification, MMImageProcessorPil, MMProcessor

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{number}" for number in range(45))]
PICTURES = [Image.effect_noise((16, 16), spread).convert("RGB") for spread in (20, 60, 90)]
FUSIONS = ["cross_attention", "merged", "co_attention", "concat", "sum", "gated", "decision"]


@pytest.fixture(scope="module")
def processor():
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, bos_token="[CLS]", eos_token="[SEP]")
    return MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.fixture
def classifier(tiny_model, visible):
    def build(fusion, **fields):
        text = {"is_causal": False, "pooler": "mean", "hidden_dropout": 0.0, "attention_dropout": 0.0}
        mask = {"fusion_mask": "bidirectional"} if fusion == "merged" else {}
        model = tiny_model(
            cls=MMForSequenceClassification, fusion_type=fusion, num_labels=3, text_config=text, **mask, **fields
        )
        for name, value in model.named_parameters():
            if name.endswith("gate_weight"):
                torch.nn.init.normal_(value, generator=torch.Generator().manual_seed(0))  # gates that are open
        return model

    return build


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_row_without_text_is_classified_as_the_picture_alone(classifier, processor, fusion, closed):
    model = classifier(fusion)

    def logits(**given):
        read = processor(**given, add_eos_token=closed, return_tensors="pt")
        return model(**{name: value.double() if value.is_floating_point() else value for name, value in read.items()})

    found = logits(images=PICTURES, text=["w3 w4 w5", None, None])
    close(found.logits[:1], logits(images=PICTURES[:1], text=["w3 w4 w5"]).logits)
    close(found.logits[1:], logits(images=PICTURES[1:]).logits)
    close(logits(images=PICTURES, text=[None] * 3).logits, logits(images=PICTURES).logits)
    nothing = logits(images=[PICTURES[0], None], text=[None, "w3"])
    close(nothing.logits[1:], logits(text=["w3"]).logits)


def test_texts_of_one_picture_may_lack_too(processor):
    read = processor(images=PICTURES[:2], text=[["w3", "w4"], None], return_tensors="pt")
    assert read["attention_mask"].any(1).tolist() == [True, True, False] and read["context_index"].tolist() == [
        0,
        0,
        1,
    ]
    with pytest.raises(ValueError, match=r"context_text\[1\] is None"):
        processor(images=PICTURES[:2], context_text=["w3", None])
    with pytest.raises(ValueError, match=r"suffix\[1\] is None"):
        processor(images=PICTURES[:2], suffix=["w3", None])
    with pytest.raises(ValueError, match="nothing to read"):
        processor(text=[None, None])


def test_generation_goes_on_from_bos_where_there_is_no_prompt(tiny_model, processor):
    model = tiny_model()
    settings = {"max_new_tokens": 4, "min_new_tokens": 4}
    inputs = processor(images=PICTURES, text=[None, "w3 w4", None], return_tensors="pt")
    for way in ({}, {"num_beams": 2}, {"cache_implementation": "static", "disable_compile": True}):
        found = model.generate(**inputs, **settings, **way)[:, inputs["input_ids"].shape[1] :]
        for row, text in ((0, None), (1, ["w3 w4"]), (2, None)):
            alone = processor(images=PICTURES[row : row + 1], text=text, return_tensors="pt")
            written = model.generate(**alone, **settings, **way)[0, -4:]
            assert torch.equal(found[row], written), (way, row)


def test_heads_that_need_a_text_say_so(retriever, processor):
    model = retriever().float()
    inputs = processor(images=PICTURES[:2], text=["w3", None], add_eos_token=True, return_tensors="pt")
    with pytest.raises(
        ValueError, match=r"MMForImageTextRetrieval needs a text in every row, and rows \[1\] have none"
    ):
        model(**inputs)
    with pytest.raises(ValueError, match=r"rows \[1\] have none"):
        model.encode_text(inputs["input_ids"], inputs["attention_mask"])


@pytest.mark.parametrize("fusion", ["cross_attention", "gated", "decision"])
def test_trainer_trains_a_classifier_on_samples_without_text(classifier, processor, tmp_path, fusion):
    model = classifier(fusion).float()
    samples = [
        {"image": PICTURES[0], "text": "w3 w4", "label": 0}, {"image": PICTURES[1], "text": None, "label": 1},
        {"image": PICTURES[2], "label": 2}, {"text": "w5", "label": 0},
    ]  # fmt: skip
    collator = MMDataCollator(processor)
    batch = collator(samples)
    assert batch["attention_mask"].any(1).tolist() == [True, False, False, True]
    alone = model(pixel_values=batch["pixel_values"][1:3].reshape(2, 3, 16, 16)).logits
    torch.testing.assert_close(model(**batch).logits[1:3], alone, rtol=1e-4, atol=1e-5)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, learning_rate=3e-3, report_to="none",
        use_cpu=True, remove_unused_columns=False, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    before = float(model(**batch).loss)
    Trainer(model=model, args=arguments, train_dataset=samples, data_collator=collator).train()
    assert float(model.eval()(**batch).loss) < before


def test_a_suffix_without_a_prompt_beside_one_with_is_a_row_from_bos(processor):
    batch = MMDataCollator(processor)(
        [{"image": PICTURES[0], "text": "w3", "suffix": "w4"}, {"image": PICTURES[1], "suffix": "w5"}]
    )
    alone = MMDataCollator(processor)([{"image": PICTURES[1], "suffix": "w5"}])
    length = alone["labels"].shape[1]
    assert torch.equal(batch["labels"][1:, :length], alone["labels"])
    assert torch.equal(batch["input_ids"][1:, :length], alone["input_ids"])
