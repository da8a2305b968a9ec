"""Scores of captions as chances of being right."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import mm
from mm.evaluation.calibration import Calibration, calibrate, calibration_of, weights_digest


def drawn(temperature: float, midpoint: float, count: int = 20000):
    generator = np.random.default_rng(0)
    scores = -generator.gamma(2.0, 0.5, count)
    chances = 1 / (1 + np.exp(-(scores - midpoint) / temperature))
    return scores, generator.random(count) < chances, chances


@pytest.mark.parametrize(("temperature", "midpoint"), [(0.2, -0.5), (1.0, -1.5), (0.05, -1.0)])
def test_the_rule_that_made_what_was_seen_is_found_again(temperature, midpoint):
    scores, right, chances = drawn(temperature, midpoint)
    found = calibrate(scores, right)
    assert found.temperature == pytest.approx(temperature, rel=0.06)
    assert found.midpoint == pytest.approx(midpoint, abs=0.03)
    told = np.array([found.chance(score) for score in scores])
    assert np.abs(told - chances).mean() < 0.01


def test_what_is_right_above_a_score_without_exception_gives_a_finite_rule():
    scores = np.linspace(-3, -1, 40)
    found = calibrate(scores, scores > -2)
    assert 0 < found.temperature < 1 and found.midpoint == pytest.approx(-2, abs=0.1)
    assert found.chance(-1e6) == 0 and found.chance(1e6) == 1


@pytest.mark.parametrize(
    ("scores", "right", "words"),
    [
        ([-1.0, -2.0], [True, True], "2 of 2 texts are right; a calibration needs both"),
        ([-1.0, -2.0], [False, False], "0 of 2 texts are right"),
        ([-1.0, -2.0, -3.0, -4.0], [False, False, True, True], "their scores tell nothing"),
        ([-1.0, float("nan")], [True, False], "give finite numbers"),
        ([-1.0, -2.0], [True], "give finite numbers and True or False"),
        ([-1.0, -2.0], [1, 0], "right int64"),
    ],
)
def test_what_no_rule_fits_is_told(scores, right, words):
    with pytest.raises(ValueError, match=words):
        calibrate(scores, right)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"temperature": 0.0, "midpoint": -1.0}, ValueError, "temperature must be above 0"),
        ({"temperature": 1.0, "midpoint": float("inf")}, TypeError, "midpoint must be a finite number"),
        ({"temperature": "1", "midpoint": -1.0}, TypeError, "temperature must be a finite number"),
        ({"temperature": 1.0, "midpoint": -1.0, "unsure_below": 1.5}, ValueError, "a chance, 0 to 1"),
        ({"temperature": 1.0}, TypeError, "midpoint"),
        ([1.0, 2.0], TypeError, "calibration must be an object"),
    ],
)
def test_a_broken_calibration_is_named_with_its_file(tiny_model, fields, kind, words):
    model = tiny_model()
    model.generation_config.calibration = fields
    with pytest.raises(kind, match=f"generation_config.json: .*{words}"):
        calibration_of(model)


def test_it_is_saved_with_the_model(tiny_model, tmp_path):
    model = tiny_model()
    assert calibration_of(model) is None
    Calibration(0.3, -0.7, 0.4).keep(model)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["calibration"]["midpoint"] == -0.7
    again = mm.MMForConditionalGeneration.from_pretrained(tmp_path)
    assert calibration_of(again) == replace(Calibration(0.3, -0.7, 0.4), weights=weights_digest(model))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_for_the_weights_that_it_was_made_with(tiny_model, tmp_path, dtype, caplog):
    model = tiny_model(dtype=torch.float32)
    Calibration(0.3, -0.7).keep(model)
    model.save_pretrained(tmp_path)
    again = mm.MMForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert calibration_of(again) is not None
    loss = again(input_ids=torch.tensor([[1, 5, 2]]), labels=torch.tensor([[1, 5, 2]])).loss
    loss.backward()
    torch.optim.SGD(again.parameters(), lr=0.5).step()
    assert calibration_of(again) is None
    assert "was made before these weights were trained" in caplog.text


def test_weights_that_are_not_there_have_none(tiny_model):
    """As where they are read from the disk when they are needed."""
    model = tiny_model(dtype=torch.float32)
    Calibration(0.3, -0.7).keep(model)
    assert calibration_of(model) is not None
    with torch.device("meta"):
        patches = model.model.vision_tower.patch_embedding
        patches.weight = torch.nn.Parameter(torch.empty_like(patches.weight, device="meta"))
    assert calibration_of(model) is None
