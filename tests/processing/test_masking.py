"""Hidden tokens and patches: how many, which, and that they depend on (seed, epoch, sample) alone."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, Trainer, TrainingArguments

from mm import MMDataCollator, MMForMaskedLM, MMForPreTraining, MMImageProcessorPil, MMProcessor
from mm.processing.masking import mask_patches, mask_tokens

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "red", "green", "blue", *(f"w{n}" for n in range(42))]
MASK = 4


@pytest.fixture(scope="module")
def processor():
    tokenizer = BertTokenizer(
        vocab={word: number for number, word in enumerate(WORDS)},
        bos_token="[CLS]", eos_token="[SEP]", model_max_length=32,
    )  # fmt: skip
    return MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, add_eos_token=True)


def samples() -> list[dict]:
    colours = ["red", "green", "blue"]
    return [
        {"image": Image.new("RGB", (20, 20), name), "text": f"{name} w{i} w{i + 1}", "id": f"{name}{i}"}
        for i, name in enumerate(colours * 2)
    ]


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, number]) for number in range(count)]


def test_tokens_are_hidden_as_bert_does(processor):
    """Shares of a large draw within five standard deviations; special tokens and padding are never hidden."""
    rows, length, share = 400, 50, 0.3
    ids = torch.full((rows, length), WORDS.index("w5"))
    ids[:, 0], ids[:, 10], ids[:, 20:22] = 1, 2, 0
    mask = torch.ones_like(ids)
    mask[:, 40:] = 0
    masked, targets = mask_tokens(ids, mask, processor.tokenizer, share, rngs(rows))
    hidden = targets != -100
    open_to = (ids > 4) & mask.bool()
    assert not hidden[~open_to].any() and torch.equal(masked[~hidden], ids[~hidden])
    assert torch.equal(targets[hidden], ids[hidden])
    count = int(open_to.sum())
    assert abs(int(hidden.sum()) / count - share) < 5 * (share * (1 - share) / count) ** 0.5
    total = int(hidden.sum())
    for kind, expected in (((masked == MASK), 0.8 + 0.1 / 50), ((masked == ids), 0.1 + 0.1 / 50)):
        assert abs(int((kind & hidden).sum()) / total - expected) < 5 * (expected * (1 - expected) / total) ** 0.5


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_company_hide_no_other_tokens(processor, side):
    ids = torch.arange(5, 15)[None]
    alone, _ = mask_tokens(ids, torch.ones_like(ids), processor.tokenizer, 0.5, rngs(1))
    padded = torch.nn.functional.pad(ids, (3, 0) if side == "left" else (0, 3))
    both = torch.cat([padded, padded + 1])
    masked, _ = mask_tokens(both, both.ne(0).long() * padded.ne(0).long(), processor.tokenizer, 0.5, rngs(2))
    assert torch.equal(masked[0, 3:] if side == "left" else masked[0, :10], alone[0])


def test_so_many_patches_of_each_picture_are_hidden():
    pixels = torch.zeros(5, 2, 3, 16, 24)
    hidden = mask_patches(pixels, 8, 0.4, rngs(5))
    assert hidden.shape == (5, 2, 6) and (hidden.sum(-1) == 2).all()
    assert len(hidden.flatten(0, 1).unique(dim=0)) > 1
    with pytest.raises(ValueError, match="no whole patches of 7"):
        mask_patches(pixels, 7, 0.4, rngs(5))


def test_the_collator_hides_the_same_of_a_sample_in_any_batch_and_another_in_another_epoch(processor):
    collate = MMDataCollator(processor, mlm_probability=0.5, mim_ratio=0.5, patch_size=8, return_loss=True)
    batch, found = collate(samples()), collate(samples()[::-1])
    assert list(batch)[0] == "input_ids" and batch["return_loss"] is True
    assert batch["bool_masked_pos"].shape == (6, 4) and (batch["bool_masked_pos"].sum(1) == 2).all()
    for name in ("masked_input_ids", "mlm_targets", "bool_masked_pos"):
        assert torch.equal(batch[name], found[name].flip(0)), name
    collate.set_epoch(1)
    assert not torch.equal(collate(samples())["mlm_targets"], batch["mlm_targets"])
    assert not torch.equal(collate(samples())["bool_masked_pos"], batch["bool_masked_pos"])


def test_texts_that_share_a_picture_share_its_patches_and_not_their_tokens(processor):
    picture = samples()[0]["image"]
    rows = [{"image": picture, "text": "red green blue w1 w2 w3 w4", "id": number} for number in range(3)]
    batch = MMDataCollator(processor, mlm_probability=0.5, mim_ratio=0.5, patch_size=8)(rows)
    assert batch["bool_masked_pos"].shape == (1, 4)
    assert len(batch["masked_input_ids"].unique(dim=0)) > 1


def test_an_absent_picture_has_no_hidden_patches(processor):
    rows = [samples()[0], {"text": "red", "id": 1}]
    batch = MMDataCollator(processor, mim_ratio=0.5, patch_size=8)(rows)
    assert batch["bool_masked_pos"].sum(-1).tolist() == [[2], [0]]
    blank = MMDataCollator(processor, mim_ratio=0.5, patch_size=8)([{"text": "red"}, {"text": "blue"}])
    assert blank["bool_masked_pos"].tolist() == [[[False] * 4]]


def test_masked_lm_puts_them_where_the_class_reads_them(processor):
    batch = MMDataCollator(processor, mlm_probability=0.5, masked_lm=True)(samples())
    other = MMDataCollator(processor, mlm_probability=0.5)(samples())
    assert torch.equal(batch["input_ids"], other["masked_input_ids"])
    assert torch.equal(batch["labels"], other["mlm_targets"]) and "masked_input_ids" not in batch
    with pytest.raises(ValueError, match="drop one"):
        MMDataCollator(processor, mlm_probability=0.5, masked_lm=True)([{"text": "red", "suffix": "w1"}])


def test_ready_samples_are_hidden_alike(processor):
    collate = MMDataCollator(processor, mlm_probability=0.5, mim_ratio=0.5, patch_size=8)
    ready = []
    for one in samples():
        made = processor(images=one["image"], text=one["text"], return_tensors="pt")
        ready.append({"id": one["id"], **{name: value[0] for name, value in made.items()}})
    batch, expected = collate(ready), collate(samples())
    for name in ("input_ids", "masked_input_ids", "mlm_targets", "bool_masked_pos"):
        assert torch.equal(batch[name], expected[name]), name


def test_what_a_suffix_makes_is_a_language_target_beside_losses_without_labels(processor):
    rows = [{"image": samples()[0]["image"], "text": "red", "suffix": "w1"}]
    batch = MMDataCollator(processor, return_loss=True)(rows)
    assert "labels" not in batch and batch["lm_targets"].shape == batch["input_ids"].shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlm_probability": 1.5}, "shares from 0 to 1"),
        ({"mim_ratio": -0.1}, "shares from 0 to 1"),
        ({"mim_ratio": 0.5}, "say patch_size"),
        ({"masked_lm": True}, "set it, for instance to 0.15"),
    ],
)
def test_settings_that_do_not_fit_are_refused(processor, settings, message):
    with pytest.raises(ValueError, match=message):
        MMDataCollator(processor, **settings)


@pytest.mark.parametrize("kind", ["pretraining", "masked"])
def test_trainer_takes_the_batches_as_they_are(tiny_model, processor, kind, tmp_path):
    if kind == "masked":
        model = tiny_model(cls=MMForMaskedLM, dtype=torch.float32, text_config={"is_causal": False})
        collate = MMDataCollator(processor, mlm_probability=0.4, masked_lm=True)
    else:
        model = tiny_model(
            cls=MMForPreTraining, dtype=torch.float32, projection_dim=12, share_text_encoder=True,
            vision_config={"use_mask_token": True},
            pretraining_losses=dict.fromkeys(["itc", "itm", "lm", "mlm", "mim"], 1.0),
        )  # fmt: skip
        collate = MMDataCollator(processor, mlm_probability=0.4, mim_ratio=0.5, patch_size=8, return_loss=True)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=3, per_device_eval_batch_size=6, num_train_epochs=10,
        learning_rate=3e-3, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=samples(), eval_dataset=samples(), data_collator=collate
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
