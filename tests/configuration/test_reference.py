"""The reference of the fields: each has an entry and a reader that reads it; help and page say the same."""

import ast
import inspect
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from transformers.configuration_utils import PreTrainedConfig

from mm import MMConfig
from mm.configuration.reference import accepted
from mm.configuration.settings import RANGES, settings_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = runpy.run_path(str(ROOT / "docs" / "configuration.py"))
CONFIGS = PAGE["CONFIGS"]
FOLDERS = ("modeling_mm", "conversion_scripts", "weights", "processing")
FIELDS = [(cls, one) for cls in CONFIGS for one in settings_of(cls).values()]
STEPS = 2  # a reader may read through its base classes and what it calls, so many steps away


def definitions(path: Path) -> dict[str, set[str]]:
    """Name -> the names, attributes and strings in each class and function of a file; without docstrings.

    Of configurations only the methods that others call.
    """
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    if path.parent.name == "configuration":
        methods = [node for cls in nodes if isinstance(cls, ast.ClassDef) for node in cls.body]
        nodes = [node for node in methods if not getattr(node, "name", "_").endswith(("_", "faults"))]
    return {node.name: set(words_of(node)) for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def words_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and str(node.value).replace("_", "a").isalnum():
            yield str(node.value)


@cache
def sources() -> dict[str, set[str]]:
    files = [*(ROOT / "configuration").glob("*.py")]
    files += [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found: dict[str, set[str]] = {}
    for file in files:
        for name, words in definitions(file).items():
            found.setdefault(name, set()).update(words)
    return found


@cache
def read_by(name: str) -> set[str]:
    """The words of a class or function and of what it names, STEPS away."""
    names = {name}
    for _ in range(STEPS):
        names |= set().union(*(sources()[one] for one in names)) & sources().keys()
    return set().union(*(sources()[one] for one in names))


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
    if one.read_by == "nobody":  # of what has one value only
        assert accepted(one) == f'"{one.default}"'
        return
    for name in one.read_by.split(", "):
        spellings = {one.name, "_" + one.name.split("_", 1)[-1]}  # f"{side}_resampler_config"
        assert read_by(name) & spellings, f"{name} does not read {one.name}"


def test_a_reader_that_does_not_read_a_field_would_be_found():
    assert "vocab_size" not in read_by("MMConvUnit") and "patch_size" not in read_by("MMConvModel")
    assert "mim_momentum" not in read_by("MMForSequenceClassification")


def test_help_and_the_page_say_what_the_code_says():
    for cls, one in FIELDS:
        words = " ".join(cls.__doc__.split())
        assert f"{one.name} (" in words and one.meaning in words and f"Read by {one.read_by}." in words
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == PAGE["page"](), "docs/configuration.md is not what the code says; run `make reference`"


def test_a_range_is_checked_and_a_default_is_inside_of_it():
    outside = {"> 0": 0, ">= 0": -1, "in [0, 1)": 1, "in [0, 1]": 2, "1..1000": 1001, "(finite)": float("inf")}
    assert outside.keys() == RANGES.keys()
    for cls, one in FIELDS:
        if one.values in RANGES:
            value = float(outside[one.values]) if "float" in str(one.type) else outside[one.values]
            with pytest.raises(ValueError, match=f"{one.name}="):
                cls(**{one.name: value})


def test_a_fault_of_one_and_of_many_is_counted_in_words():
    with pytest.raises(ValueError, match="^MMConfig has a problem:\n  - max_images=-1"):
        MMConfig(max_images=-1)
    with pytest.raises(ValueError, match="^MMConfig has 2 problems:\n"):
        MMConfig(max_images=-1, projection_dim=0)
