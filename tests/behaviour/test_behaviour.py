"""Forty-eight tiny models compute what they computed when recorded.json was written; see models.py."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("behaviour_models", Path(__file__).with_name("models.py"))
assert _spec is not None and _spec.loader is not None
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)
RECORDED = json.loads(models.RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RECORDED)
def test_a_model_computes_what_was_recorded(name):
    assert models.differences(RECORDED[name]) == []


def test_every_model_is_recorded_and_a_change_is_found():
    assert set(models.MODELS) <= set(RECORDED) and len(RECORDED) >= 40
    changed = copy.deepcopy(RECORDED["writer"])
    changed["outputs"]["logits"]["values"][3] += 1e-9
    changed["tokens, 3 beams"][0][-1] += 1
    changed["tensors"][1] = changed["tensors"][1][::-1]
    found = models.differences(changed)
    assert len(found) == 3 and any("logits: differs by 1.0e-09" in fault for fault in found)
