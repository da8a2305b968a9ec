"""Broken recipes of `mm train`: settings that are accepted, or a ValueError that names a setting that was changed."""

import json
import random
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from checkpoint_mutations import _bytes, _one_value  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]

from mm.training.recipe import run_arguments, shipped_recipes  # noqa: E402

ADDED = {
    "data": "captions.jsonl", "media": "pictures", "output": "out", "columns": {"caption": "suffix"},
    "layer_decay": 0.8, "bf16": False, "save_steps": 2, "max_steps": 5, "freeze": ["vision"],
}  # fmt: skip
ABSENT = object()


def broken(number: int) -> tuple[dict, bytes]:
    """A whole recipe, and the same with one value or some bytes changed."""
    rng = random.Random(number)
    path = list(shipped_recipes().values())[number % len(shipped_recipes())]
    held = {**yaml.safe_load(path.read_bytes()), **ADDED}
    if held.get("lora"):  # it freezes by itself
        del held["freeze"]
    if held["task"] == "distill":
        held["teacher"] = "large"
    if rng.random() < 0.3:
        return held, _bytes(yaml.safe_dump(held).encode(), rng)
    return held, yaml.safe_dump(_one_value(json.loads(json.dumps(held)), rng)).encode()


def result_of(number: int, folder: Path) -> str:
    """ "read" or "ValueError"; AssertionError for an error that names neither the file nor what was changed."""
    held, written = broken(number)
    path = folder / "broken.yaml"
    path.write_bytes(written)
    try:
        run_arguments([str(path)])
    except ValueError as fault:
        if path.name in str(fault):
            return "ValueError"
        found = yaml.safe_load(written)
        changed = {str(name) for name in {*held, *found} if held.get(name, ABSENT) != found.get(name, ABSENT)}
        assert any(name in str(fault) for name in changed if name), (number, changed, str(fault))
        return "ValueError"
    return "read"


def test_a_few_broken_recipes_are_read_or_name_what_is_wrong(tmp_path):
    assert {result_of(number, tmp_path) for number in range(25)} == {"read", "ValueError"}


@pytest.mark.slow
def test_five_hundred_broken_recipes_are_read_or_name_what_is_wrong(tmp_path):
    results = [result_of(number, tmp_path) for number in range(500)]
    assert results.count("ValueError") > 100
