"""Losses that Trainer makes outside of the model, of labels that it takes out of the batch; and what it leaves."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import BertTokenizer, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from mm import (
    MMDataCollator,
    MMForConditionalGeneration,
    MMForImageTextRetrieval,
    MMForPreTraining,
    MMForSequenceClassification,
    MMImageProcessorPil,
    MMProcessor,
)
from mm.modeling_mm.losses.token_losses import causal_lm_loss

IDS = torch.tensor([[1, 5, 6, 9], [1, 7, 8, 3], [1, 4, 4, 2]])
LABELS = IDS.masked_fill(torch.tensor([[True, True, False, False]]), -100)
PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "red", "green", "blue", "square"]


def make_processor() -> MMProcessor:
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, bos_token="[CLS]", eos_token="[SEP]")
    return MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer)


def samples() -> list[dict]:
    colours = ["red", "green", "blue"] * 2
    return [{"image": Image.new("RGB", (20, 20), name), "suffix": f"{name} square"} for name in colours]


class Mine(MMForConditionalGeneration):
    """A user's own subclass."""


def build(model, folder, trainer=Trainer, held=None, collator=None, compute_loss_func=None, **settings):
    kind = Seq2SeqTrainingArguments if trainer is Seq2SeqTrainer else TrainingArguments
    arguments = kind(
        str(folder), report_to="none", use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
        **{"save_strategy": "no", "max_steps": 1, "per_device_train_batch_size": 3, **settings},
    )  # fmt: skip
    return trainer(
        model, arguments, train_dataset=held, eval_dataset=held, data_collator=collator,
        compute_loss_func=compute_loss_func,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", "subclass", "peft", "merged"])
def test_trainer_smooths_the_next_token(tiny_model, kind, tmp_path):
    fields = {"fusion_type": "merged"} if kind == "merged" else {}
    cls = Mine if kind == "subclass" else MMForConditionalGeneration
    model = tiny_model(dtype=torch.float32, cls=cls, **fields)
    if kind == "peft":
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"])).eval()
    batch = {"input_ids": IDS, "pixel_values": PIXELS}
    logits = model(**batch).logits[:, :-1].flatten(0, 1)
    expected = cross_entropy(logits, LABELS[:, 1:].flatten(), label_smoothing=0.2)
    plain = cross_entropy(logits, LABELS[:, 1:].flatten())
    trainer = build(model, tmp_path, label_smoothing_factor=0.2)
    for count in (None, torch.tensor(6)):  # the labels that are counted
        found = trainer.compute_loss(model, {**batch, "labels": LABELS}, num_items_in_batch=count)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert abs(expected - plain) > 0.01
    rows = [{"input_ids": IDS[i], "pixel_values": PIXELS[i], "labels": LABELS[i]} for i in range(3)]
    evaluated = build(model, tmp_path, held=rows, label_smoothing_factor=0.2).evaluate()
    assert evaluated["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["plain", "subclass", "peft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_trainer_counts_the_tokens_of_a_shifted_loss(tiny_model, kind, smoothing, tmp_path):
    """Every token has a label, the first too, which nothing predicts."""
    cls = Mine if kind == "subclass" else MMForConditionalGeneration
    model = tiny_model(dtype=torch.float32, cls=cls)
    if kind == "peft":
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"])).eval()
    logits = model(input_ids=IDS, pixel_values=PIXELS).logits[:, :-1].flatten(0, 1)
    expected = cross_entropy(logits, IDS[:, 1:].flatten(), label_smoothing=smoothing).item()
    rows = [{"input_ids": IDS[i], "pixel_values": PIXELS[i], "labels": IDS[i]} for i in range(3)]
    settings = {"label_smoothing_factor": smoothing, "learning_rate": 0.0}
    assert build(model, tmp_path, held=rows, **settings).train().training_loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("does", ["train", "evaluate"])
def test_smoothing_of_a_compiled_model_is_refused_as_trainer_would_not_shift_its_labels(tiny_model, does, tmp_path):
    rows = [{"input_ids": IDS[i], "pixel_values": PIXELS[i], "labels": LABELS[i]} for i in range(3)]
    compiled = {"torch_compile": True, "torch_compile_backend": "eager"}
    model = tiny_model(dtype=torch.float32)
    with pytest.raises(ValueError, match="compile"):
        getattr(build(model, tmp_path, held=rows, label_smoothing_factor=0.2, **compiled), does)()
    assert not model.training or does == "train"
    model.train().eval()  # by hand nothing is looked for


@pytest.mark.parametrize("losses", [{"itc": 1.0}, {"lm": 1.0}])
def test_smoothing_that_would_reach_no_loss_is_refused(tiny_model, losses, tmp_path):
    cls = MMForPreTraining if "lm" in losses else MMForImageTextRetrieval
    text = {} if "lm" in losses else {"is_causal": False, "pooler": "mean"}
    model = tiny_model(dtype=torch.float32, cls=cls, pretraining_losses=losses, text_config=text)
    rows = [{"input_ids": IDS[i], "pixel_values": PIXELS[i]} for i in range(3)]
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        build(model, tmp_path, held=rows, label_smoothing_factor=0.2).train()


REGRESSION = {
    "one number": ({"num_labels": 1}, torch.tensor([0.1, 0.2, 0.3])),
    "several labels": ({"num_labels": 3}, torch.eye(3)),
    "in an order": ({"num_labels": 3, "classification_loss": "ordinal"}, torch.tensor([0, 2, 1])),
}


@pytest.mark.parametrize("kind", REGRESSION)
def test_smoothing_of_what_is_no_class_is_refused_in_words(tiny_model, kind, tmp_path):
    fields, labels = REGRESSION[kind]
    model = tiny_model(dtype=torch.float32, cls=MMForSequenceClassification, **fields)
    batch = {"input_ids": IDS, "pixel_values": PIXELS, "labels": labels}
    assert build(model, tmp_path).compute_loss(model, dict(batch)) > 0
    with pytest.raises(ValueError, match="label_smoothing_factor=0.1 would replace the loss of these labels"):
        build(model, tmp_path, label_smoothing_factor=0.1).compute_loss(model, dict(batch))
    own = build(model, tmp_path, compute_loss_func=lambda outputs, *_, **__: outputs.logits.square().mean())
    assert own.compute_loss(model, dict(batch)) > 0  # a loss of one's own is the user's


def test_smoothed_classes_are_right(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32, cls=MMForSequenceClassification, num_labels=3)
    batch, labels = {"input_ids": IDS, "pixel_values": PIXELS}, torch.tensor([0, 2, 1])
    expected = cross_entropy(model(**batch).logits, labels, label_smoothing=0.1)
    found = build(model, tmp_path, label_smoothing_factor=0.1).compute_loss(model, {**batch, "labels": labels})
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_a_loss_function_of_ones_own_gets_labels_that_it_shifts(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32)
    batch = {"input_ids": IDS, "pixel_values": PIXELS, "labels": LABELS}

    def own(outputs, labels, num_items_in_batch=None):
        return causal_lm_loss(outputs.logits, labels, num_items_in_batch)

    found = build(model, tmp_path, compute_loss_func=own).compute_loss(model, dict(batch))
    torch.testing.assert_close(found, model(**batch).loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize("does", ["train", "evaluate"])
def test_seq2seq_trainers_unshifted_smoothing_is_refused_at_once(tiny_model, does, tmp_path):
    model, processor = tiny_model(dtype=torch.float32), make_processor()
    settings = {"label_smoothing_factor": 0.1, "predict_with_generate": True}
    trainer = build(model, tmp_path, Seq2SeqTrainer, samples(), MMDataCollator(processor), **settings)
    trainer.compute_metrics, trainer.processing_class = (lambda _: {}), processor
    with pytest.raises(
        ValueError, match=r"label_smoothing_factor=0.1 with predict_with_generate=True.*set model.config"
    ):
        getattr(trainer, does)()


# -------------------------------------------------------------------------------- what the collator adds under Trainer


class Asking(MMDataCollator):
    """Keeps whether logits were asked for."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.asked = []

    def __call__(self, samples):
        batch = super().__call__(samples)
        self.asked.append(batch.get("return_logits", "not said"))
        return batch


class WithOutputs(Trainer):
    """A user's own Trainer that looks at the logits."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        assert outputs.logits is not None
        return (loss, outputs) if return_outputs else loss


@pytest.mark.slow
def test_trainer_trains_without_logits_that_nobody_reads_and_evaluates_with_them(tiny_model, tmp_path):
    losses, asked = {}, {}
    cases = {
        "plain": {}, "smoothed": {"label_smoothing_factor": 0.1}, "own": {"trainer": WithOutputs},
        "function": {"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: causal_lm_loss(
            outputs.logits, labels, num_items_in_batch)},
    }  # fmt: skip
    for name, case in cases.items():
        model, collator = tiny_model(dtype=torch.float32), Asking(make_processor())
        trainer = build(model, tmp_path, held=samples()[:3], collator=collator, **case)
        seen = []
        trainer.compute_metrics = lambda found, seen=seen: seen.append(found.predictions.shape) or {}
        losses[name] = trainer.train().training_loss
        asked[name] = collator.asked[0]
        if name == "plain":
            trainer.evaluate()
            assert seen == [(3, 4, 50)] and collator.asked[1] == "not said"
    assert asked == {"plain": False, "smoothed": True, "own": True, "function": True}
    assert losses["plain"] == pytest.approx(losses["function"], rel=1e-5)
    assert losses["plain"] == pytest.approx(losses["own"], rel=1e-5)


def test_a_head_that_is_more_than_its_weight_keeps_its_logits(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32, tie_word_embeddings=False)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["lm_head"]))
    collator = Asking(make_processor())
    assert build(wrapped, tmp_path, held=samples(), collator=collator).train().training_loss > 0
    assert set(collator.asked) == {True}
    assert "return_logits" not in MMDataCollator(make_processor())(samples())  # nor by hand


@pytest.mark.parametrize("predicts", [False, True])
def test_evaluation_of_a_loss_without_labels_needs_no_return_loss(tiny_model, predicts, tmp_path):
    fields = {"projection_dim": 12, "text_config": {"is_causal": False, "pooler": "mean"}}
    model = tiny_model(dtype=torch.float32, cls=MMForImageTextRetrieval, **fields)
    held = [{"image": sample["image"], "text": sample["suffix"] + " red" * i} for i, sample in enumerate(samples())]
    found = []
    for told in (False, True):
        collator = MMDataCollator(make_processor(), return_loss=told)
        trainer = build(model, tmp_path, held=held, collator=collator, per_device_eval_batch_size=6)
        found.append(trainer.evaluate()["eval_loss"])
    assert found[0] == found[1] > 0
    if predicts:  # pictures alone have no loss, and no error
        pictures = [{"image": sample["image"]} for sample in samples()]
        trainer = build(model, tmp_path, held=pictures, collator=MMDataCollator(make_processor()))
        assert "test_loss" not in trainer.predict(pictures).metrics
