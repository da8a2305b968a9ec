"""Phases of a recipe: what each has of it, which goes on from which, and what a resumed run does again."""

import pytest
import torch
from safetensors.torch import load_file

from mm.training.recipe import phase_arguments, run_arguments
from mm.training.run import train_phases

RECIPE = """
task: caption
data: here
output: there
model: start
new_vocabulary: 300
learning_rate: 1e-4
config: {label_smoothing: 0.1}
phases:
  decoder: {freeze: vision, learning_rate: 1e-3, num_train_epochs: 2}
  whole: {config: {max_images: 2}}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    return path


def test_a_phase_has_its_own_settings_in_place_of_the_recipes(recipe):
    first, second = run_arguments([str(recipe)])
    assert (first.training.output_dir, second.training.output_dir) == ("there/decoder", "there/whole")
    assert (first.model.model, second.model.model) == ("start", "there/decoder")
    assert (first.model.freeze, second.model.freeze) == ("vision", None)
    assert (first.model.new_vocabulary, second.model.new_vocabulary) == (300, None)
    assert (first.training.learning_rate, second.training.learning_rate) == (1e-3, 1e-4)
    assert first.model.config == {"label_smoothing": 0.1}
    assert second.model.config == {"label_smoothing": 0.1, "max_images": 2}


def test_what_is_given_to_the_run_holds_for_every_phase_and_one_of_them_can_be_named(recipe):
    first, second = run_arguments([str(recipe), "num_train_epochs=5", "--model", "other", "--output", "elsewhere",
                                   "phases.whole.weight_decay=0.2"])  # fmt: skip
    assert (first.training.num_train_epochs, second.training.num_train_epochs) == (5, 5)
    assert (first.training.weight_decay, second.training.weight_decay) == (0.0, 0.2)
    assert (first.model.model, second.model.model) == ("other", "elsewhere/decoder")


@pytest.mark.parametrize(
    ("phases", "told"),
    [
        ("[]", r"phases=\[\]; accepted are names"),
        ("{a/b: {}}", "'a/b' names a folder"),
        ("{first: 3}", r"phases\.first=3; accepted are settings"),
        ("{first: {lerning_rate: 1}}", r"phases\.first: .*lerning_rate.*learning_rate"),
        ("{first: {output: x}}", r"phases\.first: output_dir is a setting of the whole recipe"),
        ("{first: {}, last: {learning_rate: abc}}", "learning_rate.*abc"),
    ],
)
def test_phases_that_are_none_are_refused_before_anything_is_trained(tmp_path, phases, told):
    path = tmp_path / "mine.yaml"
    path.write_text(f"task: caption\ndata: here\noutput: there\nphases: {phases}\n")
    with pytest.raises(ValueError, match=told):
        run_arguments([str(path)])


def test_a_run_goes_on_from_phase_to_phase_and_a_resumed_one_leaves_out_what_is_done(settings, small_model, tmp_path):
    phases = {"head": {"freeze": "vision", "max_steps": 2}, "whole": {"max_steps": 1}}
    held, said = settings(phases=phases, output_dir=str(tmp_path / "out"), save_strategy="steps", save_steps=1), []
    held.pop("output")
    result = train_phases(phase_arguments(held, {}), said.append)
    assert "phase 1 of 2: head" in said and "phase 2 of 2: whole" in said
    before, first, second = (
        load_file(folder / "model.safetensors")
        for folder in (small_model, tmp_path / "out/head", tmp_path / "out/whole")
    )
    tower = [name for name in before if "vision_tower" in name]
    assert tower and all(torch.equal(before[name], first[name]) for name in tower)
    assert any(not torch.equal(first[name], second[name]) for name in tower)
    assert any(not torch.equal(before[name], first[name]) for name in before)
    assert result.output_dir == str(tmp_path / "out/whole")
    state = tmp_path / "out" / "head" / "trainer_state.json"
    written = state.stat().st_mtime_ns
    again: list[str] = []
    train_phases(phase_arguments({**held, "resume": True}, {"resume": True}), again.append)
    assert any(line.endswith("head is done already") for line in again) and state.stat().st_mtime_ns == written
    assert "phase 2 of 2: whole" in again and (tmp_path / "out/whole/model.safetensors").is_file()


def test_a_plan_is_of_the_first_phase(settings, tmp_path):
    held, said = settings(phases={"first": {}, "second": {}}, output_dir=str(tmp_path / "out"), dry_run=True), []
    held.pop("output")
    train_phases(phase_arguments(held, {}), said.append)
    assert "phase 1 of 2: first" in said and not any(line.startswith("phase 2") for line in said)
    assert not (tmp_path / "out" / "second").exists()
