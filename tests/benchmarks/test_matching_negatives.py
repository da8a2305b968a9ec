"""Matching leaves its prior: the short run of the benchmark, with the share of hard negatives that is the default."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "matching_negatives.py"
PRIOR = -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3  # two of three pairs do not match


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("matching_negatives", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_picture_and_every_text_is_another(benchmark):
    pictures, texts = benchmark.drawn(seed=0)
    assert pictures.shape == (120, 3, 32, 32) and len(texts.unique(dim=0)) == 120
    assert len(pictures.flatten(1).unique(dim=0)) == 120
    again, words = benchmark.drawn(seed=1)
    assert not torch.equal(pictures, again) and torch.equal(texts, words)


@pytest.mark.slow
def test_matching_gets_clearly_under_its_prior_in_a_short_run(benchmark):
    model, losses = benchmark.trained(120)
    assert sum(losses[-20:]) / 20 < PRIOR - 0.08
    assert benchmark.share_of_right_order(model) > 0.8
