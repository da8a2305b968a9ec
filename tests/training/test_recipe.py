"""Recipes and the words of `mm train`: what is accepted, what replaces what, and what an error says."""

import dataclasses
import json
import re

import pytest
from transformers import Seq2SeqTrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_available

from mm.training.arguments import TASKS
from mm.training.recipe import (
    check_keys,
    known_keys,
    make_arguments,
    read_recipe,
    read_words,
    run_arguments,
    shipped_recipes,
)


def test_words_are_read_in_every_way_that_they_can_be_given():
    words = "caption --columns caption=suffix --bf16 learning_rate=1e-4 --num-train-epochs=3 config.text_config.x=1"
    assert read_words([*words.split(), "--freeze", "vision,text", "--gradient-checkpointing", "false"]) == (
        "caption",
        {
            "columns": "caption=suffix",
            "bf16": "true",
            "learning_rate": "1e-4",
            "num_train_epochs": "3",
            "config.text_config.x": "1",
            "freeze": "vision,text",
            "gradient_checkpointing": "false",
        },
    )


def test_a_flag_before_the_recipe_does_not_take_its_name():
    assert read_words(["--dry-run", "caption"]) == ("caption", {"dry_run": "true"})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["captoin"], "captoin.*caption"),
        (["caption", "--dta", "x"], "dta.*data"),
        (["caption", "learning_rat=1"], "learning_rat.*learning_rate"),
        (["caption", "--data"], "data.*value"),
        (["caption", "vqa"], "vqa.*caption"),
        ([], "caption, vqa"),
        (["caption", "--data", "x"], "output"),
        (["caption", "--output", "x"], "data"),
        (["caption", "--data", "x", "--output", "y", "--learning-rate", "abc"], "learning_rate.*abc"),
        (["caption", "--data", "x", "--output", "y", "--bf16=maybe"], "bf16.*maybe"),
        (["caption", "--data", "x", "--output", "y", "--columns", "a"], "columns.*JSON"),
        (["caption", "--data", "x", "--output", "y", "--eval-share", "1.5"], "eval_share"),
        (["caption", "--data", "x", "--output", "y", "--lora", "4", "--freeze", "text"], "lora.*freeze"),
        (["caption", "--data", "x", "--output", "y", "--preset", "mm-tiny", "--model", "z"], "model and preset"),
        (["caption", "--data", "x", "--output", "y", "--vision-tower", "z"], "text_tower"),
        (["distill", "--data", "x", "--output", "y"], "teacher"),
        (["caption", "--data", "x", "--output", "y", "--max-length", "0"], "max_length=0; accepted are whole numbers"),
        (["caption", "--data", "x", "--output", "y", "--split-seed", "-1"], "split_seed=-1; accepted are whole"),
        (
            ["caption", "--data", "x", "--output", "y", "--lora-alpha", "0"],
            "lora_alpha=0.*; accepted are numbers above",
        ),
        (
            ["caption", "--data", "x", "--output", "y", "--early-stopping-patience", "0"],
            "early_stopping_patience=0; acc",
        ),
        (
            ["caption", "--data", "x", "--output", "y", "--distill-temperature", "-1"],
            "distill_temperature=-1.*accepted",
        ),
        (["caption", "--data", "x", "--output", "y", "--ema", "1.5"], "ema=1.5; accepted are shares from 0 to 1"),
        (["caption", "--data", "x", "--output", "y", "config.text_confg.dropout=0.1"], "text_confg.*text_config"),
        (["caption", "--data", "x", "--output", "y", "config.num_beams=2"], "config: MMConfig has no.*num_beams"),
    ],
)
def test_what_is_not_accepted_is_said_in_words(words, told):
    with pytest.raises(ValueError, match=f"(?s){told}"):
        run_arguments(words)


def test_settings_of_the_command_line_replace_those_of_the_file(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "task: caption\ndata: here\noutput: there\nlearning_rate: 1e-4\nbf16: false\nfreeze: [vision, text]\n"
        "config: {fusion_type: merged, max_images: 2}\n"
    )
    (made,) = run_arguments([str(recipe), "learning_rate=2e-3", "config.max_images=3", "--output", "elsewhere"])
    assert made.training.learning_rate == 2e-3 and made.training.output_dir == "elsewhere"
    assert made.model.config == {"fusion_type": "merged", "max_images": 3}
    assert made.model.freeze == "vision,text" and made.data.data == "here" and made.recipe == str(recipe)


@pytest.mark.parametrize("text", ["- a\n", "a: [", "1: 2\n", "", "\ufeff\x00"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, text):
    recipe = tmp_path / "broken.yaml"
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.yaml"):
        run_arguments([str(recipe)])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task: caption\ndata: a.json\ndata: b.json\n", "data stands twice, again in line 3"),
        ("config:\n  max_images: 2\n  max_images: 3\n", "max_images stands twice, again in line 3"),
        ('{"data": "a.json", "data": "b.json"}', "data stands twice, again in line 1"),
        ("config: &one {max_images: 2}\nlearning_rate: 1\nlearning_rate: 1\n", "learning_rate stands twice"),
    ],
)
def test_a_name_that_stands_twice_is_told(tmp_path, text, told):
    recipe = tmp_path / ("mine.json" if text.startswith("{") else "mine.yaml")
    recipe.write_text(text)
    with pytest.raises(ValueError, match=rf"mine\..*{told}"):
        run_arguments([str(recipe)])
    recipe.write_text("a: &one {x: 1, y: 2}\nb: {<<: *one, x: 3}\n")  # merged names may be set anew
    assert read_recipe(str(recipe))["b"] == {"x": 3, "y": 2}


def test_a_recipe_file_with_an_unknown_setting_is_refused_with_what_is_near(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("task: caption\nlerning_rate: 1\n")
    with pytest.raises(ValueError, match=r"mine\.yaml.*lerning_rate.*learning_rate"):
        run_arguments([str(recipe)])


def test_a_missing_file_is_no_value_error():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        run_arguments(["nowhere.yaml"])


def test_every_task_has_a_recipe_of_settings_that_there_are():
    assert set(shipped_recipes()) == set(TASKS)
    for name, path in shipped_recipes().items():
        held = read_recipe(name)
        assert held["task"] == name and path.read_text(encoding="utf-8").startswith("# ")
        more = {"teacher": "x"} if name == "distill" else {}
        made = make_arguments({**held, "data": "x", "output": "y", **more})
        assert made.task == name and made.training.learning_rate == float(held["learning_rate"])


def test_every_setting_says_what_it_is():
    own = [one for one in known_keys().values() if one.name not in fields_of_transformers()]
    assert own and all(one.metadata.get("help") for one in own)


def fields_of_transformers() -> set[str]:
    from transformers import Seq2SeqTrainingArguments

    return {one.name for one in dataclasses.fields(Seq2SeqTrainingArguments)}


def test_the_help_names_settings_that_there_are():
    from mm.cli.commands.training import train

    named = {name.replace("-", "_") for name in re.findall(r"--([a-z][a-z0-9-]+)", train.__doc__ or "")}
    assert len(named) > 20 and named <= {*known_keys(), "output", "help_all"}


@pytest.mark.parametrize("settings", ["examples/deepspeed_zero3.json", {"zero_optimization": {"stage": 2}}])
def test_deepspeed_settings_reach_training_arguments_as_they_are(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("mm.training.arguments.is_deepspeed_available", lambda: True)
    seen = []
    monkeypatch.setattr(
        Seq2SeqTrainingArguments, "__post_init__", lambda arguments: seen.append(arguments.deepspeed)
    )  # the real one asks DeepSpeed for its version
    given = {"task": "caption", "data": "x.json", "output": str(tmp_path), "use_cpu": True}
    make_arguments({**given, "deepspeed": settings})
    assert seen == [settings if isinstance(settings, str) else json.dumps(settings)]  # which it reads alike


@pytest.mark.skipif(is_deepspeed_available(), reason="DeepSpeed is installed")
def test_deepspeed_is_refused_in_words_where_it_cannot_run(tmp_path):
    given = {"task": "caption", "data": "x.json", "output": str(tmp_path), "use_cpu": True}
    for settings in ("examples/deepspeed_zero3.json", {"zero_optimization": {"stage": 2}}):
        with pytest.raises(ValueError, match="pip install deepspeed"):
            make_arguments({**given, "deepspeed": settings})
    with pytest.raises(ValueError, match="no such file"):
        make_arguments({**given, "deepspeed": "none.json"})


@pytest.mark.parametrize(
    ("given", "words"), [("epochs", "did you mean 'num_train_epochs'"), ("batch_size", "no setting 'batch_size';")]
)
def test_a_setting_by_its_last_word_is_told_whole_where_only_one_ends_so(given, words):
    with pytest.raises(ValueError, match=words):
        check_keys([given])
