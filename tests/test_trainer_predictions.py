"""Seq2SeqTrainer(predict_with_generate=True) writes from prompts alone; labels by any other way are refused."""

# Wrong types are handed in on purpose, and fixtures build models whose types pyright cannot follow.

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import BertTokenizer, Seq2SeqTrainer, Seq2SeqTrainingArguments

from mm import MMDataCollator, MMImageProcessorPil, MMProcessor
from mm.modeling_mm.tasks.trainers import prompts_of
from mm.processing.epochs import warn_of_no_labels

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "red", "green", "blue", "square", "round", *(f"w{i}" for i in range(41))]
ENCODER = {"text_encoder_config": "tiny"}


def make_processor(**options) -> MMProcessor:
    tokenizer = BertTokenizer(
        vocab={word: i for i, word in enumerate(WORDS)}, bos_token="[CLS]", eos_token="[SEP]", model_max_length=32
    )
    return MMProcessor(MMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, **options)


def samples(prompts=("", "a", "a square", "red round a")) -> list[dict]:
    colours, tones = ["red", "green", "blue"], [(200, 10, 30), (20, 180, 60), (0, 40, 220)]
    return [
        {
            "image": Image.new("RGB", (20, 20), tones[i % 3]),
            "text": prompts[i % len(prompts)],
            "suffix": f"{colours[i % 3]}{' square' * (i % 4)}",
        }
        for i in range(7)
    ]


class Kept:
    """compute_metrics, as a user writes it."""

    def __init__(self, processor):
        self.processor = processor

    def decoded(self, ids) -> list[str]:
        return self.processor.batch_decode(np.where(ids == -100, 0, ids), skip_special_tokens=True)

    def __call__(self, prediction):
        self.written, self.wanted = self.decoded(prediction.predictions), self.decoded(prediction.label_ids)
        return {"exact": float(np.mean([a == b for a, b in zip(self.written, self.wanted, strict=True)]))}


def evaluate(model, processor, held, folder, collator=None, rounds=1, **settings):
    defaults = {"per_device_eval_batch_size": 3, "predict_with_generate": True, "generation_max_length": 6}
    arguments = Seq2SeqTrainingArguments(
        str(folder), report_to="none", use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
        **{**defaults, **settings},
    )  # fmt: skip
    metrics = Kept(processor)
    trainer = Seq2SeqTrainer(
        model, arguments, eval_dataset=held, data_collator=collator or MMDataCollator(processor),
        processing_class=processor, compute_metrics=metrics,
    )  # fmt: skip
    for _ in range(rounds):
        found = trainer.evaluate()
    return found, metrics


def by_hand(model, processor, held, **settings) -> list[str]:
    """Answers, one sample at a time."""
    answers = []
    for sample in held:
        batch = MMDataCollator(processor, mode="generate")([sample])
        ids = model.generate(**batch, **{"max_new_tokens": 6, **settings})[:, batch["input_ids"].shape[1] :]
        answers += processor.batch_decode(ids, skip_special_tokens=True)
    return answers


@pytest.mark.parametrize(
    "fields",
    [{}, {"fusion_type": "merged"}, ENCODER, {"beams": 3}, {"peft": True}, {"left": True}, {"alone": True}],
    ids=str,
)
def test_predictions_are_what_generate_writes_from_the_prompts(tiny_model, fields, tmp_path):
    fields = dict(fields)
    beams, wrapped, left, alone = (fields.pop(name, False) for name in ("beams", "peft", "left", "alone"))
    model = tiny_model(dtype=torch.float32, **fields)
    processor = make_processor(prompt_to="context") if "text_encoder_config" in fields else make_processor()
    expected = by_hand(model, processor, samples(), num_beams=beams or 1)
    if wrapped:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    collator = MMDataCollator(processor, padding_side="left") if left else None
    settings = {"generation_num_beams": beams or None, "per_device_eval_batch_size": 1 if alone else 3}
    found, metrics = evaluate(model, processor, samples(), tmp_path, collator, **settings)
    assert metrics.written == expected and len(set(expected)) > 1
    assert metrics.wanted == [sample["suffix"] for sample in samples()]
    assert found["eval_exact"] <= 1 / 7 and found["eval_loss"] > 1  # nothing was learnt, and nothing leaks


@pytest.mark.parametrize("prompt_to", ["decoder", "context"])
def test_questions_of_a_shared_text_encoder_go_where_prompt_to_says(tiny_model, prompt_to, tmp_path):
    """As `prompt_side` says it, from a processor that was saved, and not to the other side."""
    model = tiny_model(dtype=torch.float32, share_text_encoder=True)
    make_processor(prompt_to=prompt_to).save_pretrained(tmp_path / "saved")
    processor = MMProcessor.from_pretrained(tmp_path / "saved")
    held = samples(("a", "a square", "red round a"))
    own, written, plain = processor.prompt_side(model.config), {}, make_processor()
    assert own == {"decoder": "text", "context": "context_text"}[prompt_to]
    for side in ("text", "context_text"):
        texts = written[side] = []
        for sample in held:
            given = {"images": [sample["image"]], side: [sample["text"]], "add_eos_token": False}
            inputs = plain(**given, return_tensors="pt")
            start = inputs["input_ids"].shape[1] if "input_ids" in inputs else 1
            ids = model.generate(**inputs, max_new_tokens=6)[:, start:]
            texts += processor.batch_decode(ids, skip_special_tokens=True)
    found, metrics = evaluate(model, processor, held, tmp_path)
    assert metrics.written == written[own] != written["text" if own == "context_text" else "context_text"]
    assert metrics.wanted == [sample["suffix"] for sample in held] and found["eval_loss"] > 1


@pytest.mark.parametrize("prompts", [True, False])
def test_a_test_set_without_answers_is_predicted(tiny_model, prompts, tmp_path):
    model, processor = tiny_model(dtype=torch.float32), make_processor()
    names = ("image", "text") if prompts else ("image",)
    held = [{name: sample[name] for name in names} for sample in samples()]
    expected = by_hand(model, processor, [{"text": "", **sample} for sample in held])
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path), report_to="none", use_cpu=True, remove_unused_columns=False, predict_with_generate=True,
        per_device_eval_batch_size=3,
    )  # fmt: skip
    trainer = Seq2SeqTrainer(model, arguments, data_collator=MMDataCollator(processor), processing_class=processor)
    found = Kept(processor).decoded(trainer.predict(held, max_length=6).predictions)
    assert found == expected


def test_a_prediction_step_of_ones_own_gets_what_generate_gives(tiny_model, tmp_path):
    class Own(Seq2SeqTrainer):
        def prediction_step(self, model, inputs, *args, **kwargs):
            with pytest.raises(ValueError, match="Pass only prompts"):
                model.generate(**inputs)
            prompts = {name: inputs[name] for name in ("input_ids", "pixel_values")}
            written.append((inputs["input_ids"], model.generate(**prompts, max_new_tokens=2)))
            return super().prediction_step(model, inputs, *args, **kwargs)

    written, processor = [], make_processor()
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path), report_to="none", use_cpu=True, remove_unused_columns=False, predict_with_generate=True
    )
    model, collator = tiny_model(dtype=torch.float32), MMDataCollator(processor)
    held = samples(["a"])[:1]
    metrics = Own(model, arguments, collator, eval_dataset=held, processing_class=processor).evaluate()
    assert torch.equal(written[0][1][:, : written[0][0].shape[1]], written[0][0]) and metrics["eval_loss"] > 0


def test_several_rows_of_a_picture_are_answered_each(tiny_model, tmp_path):
    picture, processor = Image.new("RGB", (20, 20), "red"), make_processor()
    nested = [{"image": picture, "text": ["a", "red round"], "suffix": ["green", "blue square"]}]
    texts = [("a", "green"), ("red round", "blue square")]
    rows = [{"image": picture, "text": text, "suffix": suffix} for text, suffix in texts]
    model = tiny_model(dtype=torch.float32)
    for held in (nested, rows):
        _, metrics = evaluate(model, processor, held, tmp_path)
        assert metrics.written == by_hand(model, processor, rows) and metrics.wanted == ["green", "blue square"]


def test_several_answers_for_each_row_are_refused_as_their_labels_are_others(tiny_model, tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.generation_config.update(num_beams=2, num_return_sequences=2)
    with pytest.raises(ValueError, match="num_return_sequences"):
        evaluate(model, make_processor(), samples(), tmp_path)


def test_limits_count_the_answer_and_the_call_comes_before_the_checkpoint(tiny_model, tmp_path):
    model, processor, held = tiny_model(dtype=torch.float32), make_processor(), samples()
    model.generation_config.eos_token_id = None
    model.generation_config.max_new_tokens = 2

    def lengths(limit, rounds=1):
        _, metrics = evaluate(model, processor, held, tmp_path, generation_max_length=limit, rounds=rounds)
        return {len(written.split()) for written in metrics.written}

    model.generation_config.suppress_tokens = [0, 1, 2]  # so that words are counted
    assert lengths(None) == {2} and lengths(9) == {9}
    model.generation_config.max_new_tokens = None
    assert lengths(None, rounds=2) == {20}  # Transformers' default, whatever the prompt, in every round


def test_trainer_finds_the_pad_token_with_a_processor_or_without(tiny_model, tmp_path):
    model, processor = tiny_model(dtype=torch.float32, text_config={"pad_token_id": 3}), make_processor()
    assert (processor.pad_token_id, processor.eos_token_id) == (0, 2)
    assert model.config.pad_token_id == 3 and "pad_token_id" not in model.config.to_dict()
    model.config.pad_token_id = 0
    assert model.config.text_config.pad_token_id == 0
    assert MMProcessor(MMImageProcessorPil()).pad_token_id is None


def test_a_collator_without_labels_is_told_of(tiny_model, tmp_path, caplog):
    warn_of_no_labels.cache_clear()
    model, processor = tiny_model(dtype=torch.float32), make_processor()
    found, metrics = evaluate(model, processor, samples(), tmp_path, MMDataCollator(processor, mode="generate"))
    assert "eval_exact" not in found and not hasattr(metrics, "written")
    assert "compute_metrics is not called" in caplog.text


# ---------------------------------------------------------------------------------------------------- generate() alone


@pytest.mark.parametrize("kind", ["training", "one row", "shift_labels", "classes", "peft", "encoded"])
def test_generate_refuses_labels_in_words(tiny_model, kind):
    model, processor = tiny_model(dtype=torch.float32), make_processor()
    batch = MMDataCollator(processor)(samples()[: 1 if kind == "one row" else 3])
    if kind == "shift_labels":
        batch["shift_labels"] = batch.pop("labels")
    elif kind == "classes":
        batch = processor(images=[Image.new("RGB", (20, 20))], return_tensors="pt") | {"labels": torch.tensor([1])}
    elif kind == "peft":
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    elif kind == "encoded":
        batch["encoder_outputs"] = model.encode_context(pixel_values=batch.pop("pixel_values"))
    with pytest.raises(ValueError, match=r"generate\(\) got (shift_)?labels.*Pass only prompts"):
        model.generate(**batch, max_new_tokens=2)


def test_no_other_way_to_write_or_rank_takes_labels(tiny_model):
    model, processor = tiny_model(dtype=torch.float32), make_processor()
    batch = MMDataCollator(processor)(samples())
    prompts = MMDataCollator(processor, mode="generate")(samples())
    assert model.generate(**prompts, labels=None, max_new_tokens=2).shape[0] == 7
    with pytest.raises(TypeError, match="no argument 'labels'"):
        model.rank_answers(torch.tensor([[4]]), **batch)
    for name in ("lm_targets", "return_loss"):
        batch = MMDataCollator(processor, return_loss=True)(samples())
        with pytest.raises(ValueError, match=name):
            model.generate(**prompts, **{name: batch[name]})


def test_prompts_end_where_labels_begin():
    ids = torch.tensor([[1, 5, 6, 2, 0], [1, 7, 2, 0, 0], [0, 1, 4, 5, 2], [1, 4, 5, 6, 7]])
    labels = torch.tensor([[-100, -100, 6, 2, -100], [-100, 7, 2, -100, -100], [-100, -100, 4, -100, 2], [-100] * 5])
    mask = (ids != 0).long()
    made = prompts_of({"input_ids": ids, "attention_mask": mask, "labels": labels, "return_logits": False}, 9)
    assert made["input_ids"].tolist() == [[9, 9, 9, 1, 5], [9, 9, 9, 9, 1], [9, 9, 9, 9, 1], [1, 4, 5, 6, 7]]
    assert torch.equal(made["attention_mask"], (made["input_ids"] != 9).long())
    assert set(made) == {"input_ids", "attention_mask"}
    whole = prompts_of({"input_ids": ids, "attention_mask": mask, "labels": ids}, 9)  # no -100 at all
    assert whole["input_ids"].tolist() == [[1]] * 4
    with pytest.raises(ValueError, match=r"labels \(4, 2\) and input_ids \(4, 5\)"):
        prompts_of({"input_ids": ids, "labels": ids[:, :2]}, 9)
