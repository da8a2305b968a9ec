"""Runs of a second: each task trains, is saved, loads again; warm starts, frozen parts, averages, bad samples."""

import importlib.util
import json
import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoModelForSequenceClassification, AutoProcessor

import mm
from mm.training.averaging import FILE as EMA_FILE
from mm.training.averaging import WeightAverage
from mm.training.layer_rates import rates
from mm.training.recipe import make_arguments
from mm.training.run import train


def run(settings):
    said = []
    return train(make_arguments(settings), said.append), said


def weights(model) -> dict:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def faults(folder) -> list[str]:
    return [check.told for check in mm.verify(folder) if check.is_fault]


def test_a_captioner_is_trained_evaluated_saved_and_loads(settings, tmp_path, colours):
    result, said = run(settings())
    assert {"eval_loss", "eval_exact_match", "eval_exact_match_low", "eval_exact_match_high"} <= result.metrics.keys()
    assert faults(tmp_path / "out") == []
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert same(weights(loaded), weights(result.model))
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    inputs = processor(images=[str(colours / "red-8.png")], return_tensors="pt")
    assert loaded.generate(**inputs, max_new_tokens=3).shape[0] == 1
    assert any("held out" in line for line in said) and any("weights are trained" in line for line in said)


@pytest.mark.slow
def test_two_runs_of_one_recipe_give_the_same_weights(settings, tmp_path):
    one, _ = run(settings())
    other, _ = run(settings(output=str(tmp_path / "again")))
    assert same(weights(one.model), weights(other.model))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "pretrain"])
def test_a_new_head_over_a_captioner_is_said_loudly(settings, tmp_path, task):
    result, said = run(settings(task))
    told = next(line for line in said if line.startswith("NEW WEIGHTS"))
    assert (
        "itc_head" in told
        and f"{sum(p.numel() for p in result.model.itc_head.parameters()):,}" in told
        or "itm" in told
    )
    assert faults(tmp_path / "out") == [] and "eval_i2t_r1" in result.metrics


@pytest.mark.slow
def test_a_classifier_has_the_classes_of_the_data(settings, tmp_path, colours):
    for path in colours.glob("*.png"):
        folder = tmp_path / "sorted" / path.stem.partition("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    result, said = run(settings("classify", data=str(tmp_path / "sorted")))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "sorted").iterdir())
    assert [loaded.config.id2label[number] for number in range(len(names))] == names
    assert "eval_accuracy" in result.metrics and any("classifier" in line for line in said if "NEW" in line)


@pytest.mark.slow
def test_questions_and_their_answers_are_trained(settings, tmp_path, colours):
    lines = [
        {"image": path.name, "text": "which colour?", "suffix": path.stem.partition("-")[0]}
        for path in sorted(colours.glob("*.png"))
    ]
    for line in lines:
        line["answers"] = [line["suffix"]] * 10
    (tmp_path / "vqa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result, _ = run(settings("vqa", data=str(tmp_path / "vqa.jsonl"), media=str(colours)))
    assert "eval_vqa_accuracy" in result.metrics


@pytest.mark.slow
def test_a_student_learns_from_its_teacher(settings, small_model):
    """Its loss is (1 - w) the labels' + w the teacher's, and the labels' is that of a run without a teacher."""
    losses = [run(settings(max_steps=1))[0].log_history[0]["loss"]]
    for weight in (0.0, 1.0, 0.25):
        more = {"teacher": str(small_model), "distill_weight": weight, "output": "", "max_steps": 1}
        losses.append(
            run(settings("distill", **{**more, "output": str(small_model.parent / "run")}))[0].log_history[0]["loss"]
        )
    alone, labels, taught, both = losses
    assert labels == pytest.approx(alone, rel=1e-5) and taught < 0.1 * labels
    assert both == pytest.approx(0.75 * labels + 0.25 * taught, rel=1e-5)


@pytest.mark.slow
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(settings, small_model):
    """KL(p || p) = 0 and so is its gradient, without dropout."""
    still = {"config": {"text_config": {"hidden_dropout": 0.0}}}
    result, _ = run(settings("distill", teacher=str(small_model), distill_weight=1.0, max_steps=1, **still))
    assert abs(result.log_history[0]["loss"]) < 1e-5


def test_a_teacher_with_other_words_is_refused(settings, tmp_path, small_model):
    teacher = mm.MMForConditionalGeneration.from_pretrained(small_model)
    config = mm.MMConfig.from_dict(
        teacher.config.to_dict(), text_config={"vocab_size": 7, "bos_token_id": 1, "eos_token_id": 2}
    )
    mm.MMForConditionalGeneration(config).save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="7 words.*vocabulary"):
        run(settings("distill", teacher=str(tmp_path / "teacher")))


@pytest.mark.slow
def test_a_preset_starts_with_new_weights(settings):
    result, said = run(settings(model=None, preset="mm-tiny", max_steps=1, per_device_train_batch_size=2))
    assert any("NEW WEIGHTS" in line for line in said) and result.model.config.vision_config.model_type == "mm_conv"
    with pytest.raises(ValueError, match="mm-smal.*mm-small"):
        run(settings(model=None, preset="mm-smal"))
    with pytest.raises(ValueError, match="processor"):
        run(settings(model=None, preset="mm-small"))


@pytest.mark.slow
def test_what_is_frozen_stays_and_the_rest_moves(settings, small_model):
    before = weights(AutoModelForImageTextToText.from_pretrained(small_model))
    result, said = run(settings(freeze="vision,embeddings"))
    after = weights(result.model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("vision_tower" in name or "embed_" in name for name in moved)
    assert any(line.startswith("frozen: vision, embeddings") for line in said)
    with pytest.raises(ValueError, match=r"visionn.*vision"):
        run(settings(freeze="visionn"))


def test_lower_layers_have_a_share_of_the_rate(small_model):
    model = mm.MMForConditionalGeneration(
        mm.MMConfig(
            vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3, "num_attention_heads": 1},
            text_config={
                "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1,
                "vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2,
            },
        )
    )  # fmt: skip
    found = rates(model, 0.5)
    assert found.keys() == dict(model.named_parameters()).keys()

    def of(text: str) -> set:
        return {rate for name, rate in found.items() if text in name}

    assert of("vision_tower.layers.2.") == {1.0} and of("vision_tower.layers.0.") == {0.25}
    assert of("vision_tower.patch_emb") == {0.125}
    assert of("language_model.layers.1.") == {1.0} and of("language_model.layers.0.") == {0.5}
    assert of("language_model.embed_tokens") == {0.25} and of("vision_projector") == {1.0}


@pytest.mark.slow
def test_layer_decay_moves_lower_layers_less(settings):
    even, _ = run(settings(max_steps=1, optim="sgd", layer_decay=1.0))
    less, _ = run(settings(max_steps=1, optim="sgd", layer_decay=0.01, output=even.output_dir))
    name = "model.language_model.embed_tokens.weight"
    assert not torch.equal(even.model.state_dict()[name], less.model.state_dict()[name])
    assert torch.equal(even.model.lm_head.bias, less.model.lm_head.bias)


class Stop(Exception):
    pass


@pytest.mark.slow
def test_an_average_is_what_is_saved_and_a_resume_is_exact(settings, tmp_path):
    often = {"ema": 0.9, "save_strategy": "steps", "save_steps": 1, "max_steps": 4, "save_total_limit": 9}
    whole, _ = run(settings(**often, output=str(tmp_path / "whole")))
    plain, _ = run(settings(max_steps=4))
    assert not same(weights(whole.model), weights(plain.model))
    held = tmp_path / "whole" / "checkpoint-2"
    assert (held / EMA_FILE).is_file() and EMA_FILE in json.loads((held / "manifest.json").read_text())["files"]
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    shutil.copytree(held, tmp_path / "out" / "checkpoint-2")
    resumed, _ = run(settings(**often, resume=True))
    assert same(weights(resumed.model), weights(whole.model))
    saved = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert same(weights(saved), weights(whole.model)) and not (tmp_path / "out" / EMA_FILE).exists()


def test_the_average_is_the_mean_that_its_formula_says():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
        average = WeightAverage(model, 0.9)
        model.weight.fill_(2.0)
        average.update(1)  # d = 2 / 11
        assert torch.allclose(average.held["weight"], torch.tensor([[1 * 2 / 11 + 2 * 9 / 11]]))
        with average.in_place():
            assert model.weight.item() != 2.0
        assert model.weight.item() == 2.0


@pytest.mark.slow
def test_a_checkpoint_without_an_average_is_named(settings):
    often = {"save_strategy": "steps", "save_steps": 1}
    run(settings(**often))
    with pytest.raises(OSError, match=f"{EMA_FILE}.*missing"):
        run(settings(**often, ema=0.9, resume=True, max_steps=3))


@pytest.mark.slow
def test_early_stopping_keeps_the_best_model(settings):
    rare = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 6}
    result, _ = run(settings(**rare, early_stopping_patience=1, learning_rate="3e-1"))
    losses = [line["eval_loss"] for line in result.log_history if "eval_loss" in line]
    assert result.metrics["eval_loss"] == min(losses)


@pytest.mark.slow
def test_the_folder_of_another_run_is_not_written_over(settings):
    run(settings(save_strategy="steps", save_steps=1))
    with pytest.raises(ValueError, match="checkpoint-2.*--resume"):
        run(settings())


def test_early_stopping_without_an_evaluation_is_refused(settings):
    more = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    with pytest.raises(ValueError, match="held out"):
        run(settings(early_stopping_patience=1, eval_share=0, **more))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4])
def test_bad_pictures_end_no_run_and_are_listed_with_their_reason(settings, tmp_path, colours, batch):
    shutil.copytree(colours, tmp_path / "set")
    (tmp_path / "set" / "red-8.png").write_bytes(b"no picture")
    (tmp_path / "set" / "blue-9.png").write_bytes((colours / "blue-9.png").read_bytes()[:40])
    result, said = run(
        settings(data=str(tmp_path / "set" / "captions.jsonl"), max_steps=-1, num_train_epochs=1,
                 per_device_train_batch_size=batch)
    )  # fmt: skip
    told = "\n".join(result.data_report)
    assert "red-8.png" in told and "blue-9.png" in told and "\n".join(said).count("red-8.png") == 1
    assert result.metrics["eval_samples"] + len(result.data_report) > 0 and faults(tmp_path / "out") == []


def test_a_bad_picture_ends_the_run_where_that_is_asked(settings, tmp_path, colours):
    shutil.copytree(colours, tmp_path / "set")
    (tmp_path / "set" / "red-8.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="red-8"):
        run(
            settings(data=str(tmp_path / "set" / "captions.jsonl"), on_error="raise", eval_share=0,
                     per_device_train_batch_size=12, max_steps=1)
        )  # fmt: skip


def test_a_column_that_a_task_lacks_is_named(settings):
    with pytest.raises(ValueError, match="vqa needs text"):
        run(settings("vqa"))
    with pytest.raises(ValueError, match="classify needs label"):
        run(settings("classify"))


@pytest.mark.slow
def test_adapters_are_merged_or_saved_alone(settings, tmp_path, small_model):
    peft = pytest.importorskip("peft")
    merged, said = run(settings(lora=2))
    assert any("LoRA of rank 2" in line for line in said) and faults(tmp_path / "out") == []
    before = weights(AutoModelForImageTextToText.from_pretrained(small_model))
    after = weights(AutoModelForImageTextToText.from_pretrained(tmp_path / "out"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("_attn." in name for name in moved)
    run(settings(lora=2, lora_save="adapter", output=str(tmp_path / "adapter")))
    assert not (tmp_path / "adapter" / "config.json").exists() and faults(tmp_path / "adapter") == []
    base = AutoModelForImageTextToText.from_pretrained(small_model)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    assert same(weights(adapted), weights(merged.model))


@pytest.mark.slow
def test_a_stream_needs_a_number_of_steps(settings, tmp_path, colours):
    import io
    import tarfile

    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for number, path in enumerate(sorted(colours.glob("*.png"))):
            for field, data in (("png", path.read_bytes()), ("txt", path.stem.encode())):
                info = tarfile.TarInfo(f"{number}.{field}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    more = {"data": str(tmp_path / "all.tar"), "streaming": True}
    with pytest.raises(ValueError, match="max_steps"):
        run(settings(**more, max_steps=-1))
    result, said = run(settings(**more, max_steps=2))
    assert any("stream is not split" in line for line in said) and result.metrics == {}


@pytest.mark.slow
def test_half_precision_checkpointing_accumulation_and_workers_are_settings(settings, tmp_path):
    more = {
        "bf16": True,
        "gradient_checkpointing": True,
        "gradient_accumulation_steps": 2,
        "dataloader_num_workers": 1,
    }
    run(settings(**more, freeze="vision", layer_decay=0.8, ema=0.9))
    assert faults(tmp_path / "out") == []


def test_what_report_to_names_must_be_installed(settings):
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    with pytest.raises(ValueError, match="report_to.*wandb"):
        run(settings(report_to="wandb"))


def test_a_dry_run_trains_and_saves_nothing(settings, tmp_path):
    result, said = run(settings(dry_run=True))
    assert result.metrics == {} and any("parameters" in line for line in said)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["samples.png"]
