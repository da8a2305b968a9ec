"""The reference of the fields: each has an entry and a reader that reads it; help and page say the same."""

import ast
import inspect
import re
import runpy
from functools import cache
from pathlib import Path

import pytest
from transformers.configuration_utils import PreTrainedConfig

from mm import MMConfig
from mm.configuration.settings import RANGES, settings_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = runpy.run_path(str(ROOT / "docs" / "configuration.py"))
CONFIGS = PAGE["CONFIGS"]
FOLDERS = ("configuration", "modeling_mm", "conversion_scripts", "weights", "processing")
FIELDS = [(cls, one) for cls in CONFIGS for one in settings_of(cls).values()]


@cache
def sources() -> dict[str, str]:
    """Name of a class or function -> its text, wherever the package defines it."""
    found: dict[str, str] = {}
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found[node.name] = found.get(node.name, "") + (ast.get_source_segment(text, node) or "")
    return found


def test_every_field_has_an_entry():
    for cls in CONFIGS:
        own = cls.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
        assert own == settings_of(cls).keys(), cls


@pytest.mark.parametrize(("cls", "one"), FIELDS, ids=[f"{cls.__name__}.{one.name}" for cls, one in FIELDS])
def test_the_reader_that_is_named_is_there_and_reads_the_field(cls, one):
    if one.read_by == "PreTrainedModel":
        import transformers

        assert one.name in inspect.getsource(transformers.PreTrainedModel)
        return
    for name in one.read_by.split(", "):
        ending = one.name.split("_", 1)[-1]  # of f"{side}_resampler_config"
        assert re.search(rf"\b{one.name}\b|}}_{ending}\b", sources()[name]), f"{name} does not read {one.name}"


def test_help_and_the_page_say_what_the_code_says():
    for cls, one in FIELDS:
        words = " ".join(cls.__doc__.split())
        assert f"{one.name} (" in words and one.meaning in words and f"Read by {one.read_by}." in words
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == PAGE["page"](), "docs/configuration.md is not what the code says; run `make reference`"


def test_a_range_is_checked_and_a_default_is_inside_of_it():
    below = {"> 0": 0, ">= 0": -1, "in [0, 1)": 1, "in [0, 1]": 2, "(finite)": float("inf")}
    assert below.keys() == RANGES.keys()
    for cls, one in FIELDS:
        if one.values in RANGES:
            value = float(below[one.values]) if "float" in str(one.type) else below[one.values]
            with pytest.raises(ValueError, match=f"{one.name}="):
                cls(**{one.name: value})


def test_a_fault_of_one_and_of_many_is_counted_in_words():
    with pytest.raises(ValueError, match="^MMConfig has a problem:\n  - max_images=-1"):
        MMConfig(max_images=-1)
    with pytest.raises(ValueError, match="^MMConfig has 2 problems:\n"):
        MMConfig(max_images=-1, projection_dim=0)
