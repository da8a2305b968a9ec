"""Metrics of a task: what the model writes from pictures and prompts alone, compared with all that people said."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer

import mm
from mm.evaluation.answers import vqa_score
from mm.evaluation.retrieval import similarity_scores
from mm.training.metrics import compute_metrics_for, evaluate_task, kind_of
from mm.training.trainer import MMTrainer

PICTURES = "examples/pictures/"
SAMPLES = [
    {"id": "r", "image": f"{PICTURES}rocket.png", "suffix": ["a ship", "rocket"]},
    {"id": "s", "image": f"{PICTURES}sailboat.png", "suffix": ["a house", "a tree"]},
    {"id": "g", "image": f"{PICTURES}guitar.png", "suffix": "guitar"},
]


@pytest.fixture(scope="module")
def captioner():
    return mm.MMForConditionalGeneration.from_pretrained("checkpoints/mm-tiny")


def small(processor, cls, **fields):
    torch.manual_seed(0)
    parts = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**parts, "vocab_size": len(processor.tokenizer), "bos_token_id": processor.tokenizer.bos_token_id}
    vision = {**parts, "image_size": 128, "patch_size": 64}
    return cls(mm.MMConfig(vision_config=vision, text_config={**text, **fields.pop("text_config", {})}, **fields))


def test_captions_are_compared_with_the_nearest_of_a_picture(captioner, processor, tmp_path):
    found = evaluate_task("caption", captioner, processor, SAMPLES, save_to=tmp_path)
    assert found["eval_exact_match"] == pytest.approx(2 / 3)
    assert 0 <= found["eval_exact_match_low"] <= 2 / 3 <= found["eval_exact_match_high"] <= 1
    assert found["eval_chrf_low"] < found["eval_chrf"] < found["eval_chrf_high"]
    assert (found["eval_samples"], found["eval_media"]) == (3, 3)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines][::2] == ["rocket", "guitar"]
    assert lines[0]["references"] == ["a ship", "rocket"] and lines[0]["score"] == pytest.approx(1)
    assert lines[0]["picture"].startswith("data:image/png;base64,")


def test_a_picture_is_encoded_once_and_its_captions_are_not_read(captioner, processor):
    seen = []
    hook = captioner.model.vision_tower.register_forward_pre_hook(
        lambda _, given, named: seen.append(len([*given, *named.values()][0])), with_kwargs=True
    )
    samples = [{"image": SAMPLES[0]["image"], "text": ["a", "the", "a"], "suffix": ["x", "y", "z"]}] * 2
    with hook:
        found = evaluate_task("caption", captioner, processor, samples, batch_size=8, max_new_tokens=3)
    assert seen == [1] and found["eval_samples"] == 4 and found["eval_media"] == 1


@pytest.mark.parametrize("trainer_class", [Seq2SeqTrainer, MMTrainer])
def test_trainer_computes_the_same_while_training(captioner, processor, tmp_path, trainer_class):
    direct = evaluate_task("caption", captioner, processor, SAMPLES, max_new_tokens=16)
    trainer = trainer_class(
        captioner,
        Seq2SeqTrainingArguments(
            str(tmp_path),
            predict_with_generate=True,
            per_device_eval_batch_size=2,
            remove_unused_columns=False,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            generation_max_length=16,
        ),  # fmt: skip
        data_collator=mm.MMDataCollator(processor),
        eval_dataset=SAMPLES,
        compute_metrics=compute_metrics_for("caption", processor, SAMPLES),
    )
    settings = captioner.generation_config.to_dict()
    inside = trainer.evaluate()
    if trainer_class is MMTrainer:
        assert captioner.generation_config.to_dict() == settings  # Seq2SeqTrainer puts defaults there
    captioner.generation_config = type(captioner.generation_config).from_dict(settings)
    wanted = [name for name in direct if name not in ("eval_samples", "eval_media")]
    assert "eval_loss" in inside and {name: inside[name] for name in wanted} == pytest.approx(
        {name: direct[name] for name in wanted}
    )
    trainer.compute_metrics = compute_metrics_for("caption", processor)  # each row with its own label
    assert trainer.evaluate()["eval_exact_match"] == pytest.approx(2 / 5)
    trainer.compute_metrics = compute_metrics_for("caption", processor, SAMPLES[:2])
    with pytest.raises(ValueError, match="another data set"):
        trainer.evaluate()


def test_each_question_is_scored_by_its_own_answers(processor, tmp_path):
    model = small(processor, mm.MMForConditionalGeneration)
    picture = Image.new("RGB", (8, 8), "red")
    told = {"a": "what", "b": "who"}
    samples = [{"image": picture, "text": list(told.values()), "suffix": ["x", "y"], "answers": [["x"], ["y"]]}]
    evaluate_task("vqa", model, processor, samples, save_to=tmp_path, max_new_tokens=4)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["what", "who"]
    wrote = [line["prediction"] for line in lines]
    samples[0]["answers"] = [[wrote[0]] * 2 + [f"no {n}" for n in range(8)], [f"no {n}" for n in range(10)]]
    found = evaluate_task("vqa", model, processor, samples, max_new_tokens=4)
    assert found["eval_vqa_accuracy"] == pytest.approx(vqa_score(wrote[0], samples[0]["answers"][0]) / 2)
    assert found["eval_exact_match"] == 0 and found["eval_media"] == 1


def test_retrieval_counts_a_picture_of_two_samples_once(processor):
    model = small(processor, mm.MMForImageTextRetrieval, projection_dim=8, text_config={"is_causal": False}).eval()
    names = ["rocket", "sailboat", "guitar", "penguin"]
    texts = [["a rocket", "a ship"], ["a boat"], ["a guitar", "music"], ["a bird"]]
    samples = [
        {"image": f"{PICTURES}{name}.png", "text": own} for name, own in zip(names, texts, strict=True)
    ] + [{"image": f"{PICTURES}rocket.png", "text": ["in the sky"]}]  # fmt: skip
    found = evaluate_task("retrieval", model, processor, samples, batch_size=3)
    assert (found["eval_media"], found["eval_samples"]) == (4, 4)
    batch = processor([f"{PICTURES}{name}.png" for name in names], return_tensors="pt")
    flat = [*sum(texts, []), "in the sky"]
    rows = processor(text=flat, return_tensors="pt")
    with torch.no_grad():
        images = model.encode_image(pixel_values=batch["pixel_values"])
        similarity = images @ model.encode_text(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).T
    direct = similarity_scores(similarity.numpy(), [0, 0, 1, 2, 2, 3, 0])
    for way in ("i2t", "t2i"):
        for k in (1, 5, 10):
            assert found[f"eval_{way}_r{k}"] == pytest.approx(direct[f"{way}_r{k}"].value)
    assert found["eval_i2t_r10"] == found["eval_t2i_r5"] == 1.0


def test_retrieval_inside_trainer_is_that_outside(processor, tmp_path):
    model = small(processor, mm.MMForImageTextRetrieval, projection_dim=8, text_config={"is_causal": False})
    samples = [
        {"image": f"{PICTURES}{name}.png", "text": [f"a {name}", name][:count]}
        for name, count in (("rocket", 2), ("sailboat", 1), ("guitar", 2))
    ]
    trainer = MMTrainer(
        model,
        Seq2SeqTrainingArguments(
            str(tmp_path),
            per_device_eval_batch_size=2,
            remove_unused_columns=False,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),  # fmt: skip
        data_collator=mm.MMDataCollator(processor),
        eval_dataset=samples,
        compute_metrics=compute_metrics_for("retrieval", processor, samples),
    )
    inside, outside = trainer.evaluate(), evaluate_task("retrieval", model, processor, samples)
    for name in ("i2t_r1", "t2i_r1", "t2i_r1_low", "t2i_r1_high"):
        assert inside[f"eval_{name}"] == pytest.approx(outside[f"eval_{name}"])
    plain = Trainer(
        model, trainer.args, trainer.data_collator, eval_dataset=samples, compute_metrics=trainer.compute_metrics
    )
    with pytest.raises(ValueError, match="plain Trainer"):  # it keeps as many rows of the last batch as samples
        plain.evaluate()


def test_classes_are_named_and_counted(processor, tmp_path):
    model = small(processor, mm.MMForSequenceClassification, num_labels=3, text_config={"is_causal": False})
    samples = [
        {"image": f"{PICTURES}{name}.png", "label": label} for name, label in (("rocket", 0), ("guitar", 1))
    ] * 2  # fmt: skip
    names = ["ship", "music", "bird"]
    found = evaluate_task("classify", model, processor, samples, save_to=tmp_path, label_names=names)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    right = [line["prediction"] == line["references"][0] for line in lines]
    assert found["eval_accuracy"] == pytest.approx(np.mean(right)) and found["eval_media"] == 2
    assert [line["references"] for line in lines] == [["ship"], ["music"]] * 2
    assert {line["prediction"] for line in lines} <= set(names)


def test_numbers_have_their_mean_error(processor):
    model = small(processor, mm.MMForSequenceClassification, num_labels=1, text_config={"is_causal": False})
    samples = [{"image": f"{PICTURES}rocket.png", "label": 0.5}, {"image": f"{PICTURES}guitar.png", "label": 2.5}]
    found = evaluate_task("classify", model, processor, samples)
    assert found["eval_mean_absolute_error"] > 0 and "eval_accuracy" not in found


def test_media_that_cannot_be_read_are_counted_or_raise(captioner, processor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    samples = [SAMPLES[2], {"id": "bad", "image": str(tmp_path / "broken.png"), "suffix": "x"}]
    with pytest.raises(ValueError, match=r"broken\.png"):
        evaluate_task("caption", captioner, processor, samples)
    found = evaluate_task("caption", captioner, processor, samples, on_error="skip")
    assert (found["eval_samples"], found["eval_skipped"], found["eval_exact_match"]) == (1, 1, 1.0)


@pytest.mark.parametrize(
    ("task", "name", "accepted"),
    [
        ("caption", "MMForSequenceClassification", "MMForConditionalGeneration"),
        ("vqa", "MMForPreTraining", "MMForConditionalGeneration"),
        ("retrieval", "MMForConditionalGeneration", "MMForImageTextRetrieval"),
        ("classify", "MMForImageTextRetrieval", "MMForSequenceClassification"),
    ],
)
def test_a_model_of_another_task_is_named_with_what_is_accepted(processor, task, name, accepted):
    sized = {"projection_dim": 8} if name in ("MMForPreTraining", "MMForImageTextRetrieval") else {}
    model = small(processor, getattr(mm, name), **sized)
    with pytest.raises(TypeError, match=f"task='{task}' cannot evaluate {name}; accepted is .*{accepted}"):
        evaluate_task(task, model, processor, SAMPLES)


def test_a_captioner_out_of_pre_training_is_a_student_that_writes(processor):
    losses = {"pretraining_losses": {"itc": 1.0, "lm": 1.0}, "projection_dim": 8}
    student = small(processor, mm.MMForConditionalGeneration, **losses)
    assert kind_of("distill", student) == "caption"
    assert kind_of("pretrain", small(processor, mm.MMForPreTraining, **losses)) == "retrieval"


def test_the_model_is_left_as_it_was(captioner, processor):
    captioner.train()
    evaluate_task("caption", captioner, processor, SAMPLES[2:])
    assert captioner.training
    captioner.eval()


def test_a_collator_of_training_augments_and_renames_nothing_here(captioner, processor):
    def never(image, rng):
        raise AssertionError("augmented")

    renamed = [{"file": sample["image"], "words": sample["suffix"]} for sample in SAMPLES]
    collator = mm.MMDataCollator(processor, augment=never, columns={"file": "image", "words": "suffix"})
    found = evaluate_task("caption", captioner, processor, renamed, collator=collator)
    assert found["eval_exact_match"] == pytest.approx(2 / 3)


def test_unknown_tasks_and_samples_without_text_raise(captioner, processor):
    with pytest.raises(ValueError, match="task"):
        evaluate_task("captions", captioner, processor, SAMPLES)
    with pytest.raises(ValueError, match="no text to compare"):
        evaluate_task("caption", captioner, processor, [{"image": SAMPLES[0]["image"]}])
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate_task("caption", captioner, processor, [])
    with pytest.raises(TypeError, match="a list of samples"):
        evaluate_task("caption", captioner, processor, SAMPLES[0])
    with pytest.raises(ValueError, match="num_beams"):
        evaluate_task("classify", small(processor, mm.MMForSequenceClassification), processor, SAMPLES, num_beams=2)
