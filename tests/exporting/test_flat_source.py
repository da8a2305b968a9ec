"""Flat files of remote code: what the rewriter makes of each kind of import, and what it refuses."""

import ast
import re
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports

from mm.exporting.flat_source import REQUIRED, flat_sources, flattened, imported_modules

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("configuration", "weights", "kernels", "processing", "modeling_mm", "explaining")
FILES = [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
ALL = sorted(".".join(path.with_suffix("").parts) for path in FILES)

REWRITTEN = {
    "a sibling": ("from .core.cache import MMCache", "from .modeling_mm_core_cache import MMCache"),
    "another folder": ("from ..configuration.text import A as B", "from .configuration_text import A as B"),
    "several lines": (
        "from .core.cache import (\n    A,\n    B as C,\n)",
        "from .modeling_mm_core_cache import A, B as C",
    ),
    "a module": (
        "from .core import positions as p",
        "from .modeling_mm_core_positions import __name__ as _\nfrom . import modeling_mm_core_positions as p",
    ),
    "inside a function": (
        "def f():\n    from .core.cache import A\n    return A",
        "def f():\n    from .modeling_mm_core_cache import A\n    return A",
    ),
    "what not everyone has": (
        "import triton.language as tl",
        "try:\n    import triton.language as tl\nexcept ImportError:\n    raise",
    ),
    "what not everyone has, guarded already": (
        "try:\n    import av\nexcept ImportError:\n    av = None",
        "try:\n    import av\nexcept ImportError:\n    av = None",
    ),
    "what everyone has": ("import os\nfrom torch import nn  # layers", "import os\nfrom torch import nn  # layers"),
}


@pytest.mark.parametrize(("source", "expected"), REWRITTEN.values(), ids=REWRITTEN)
def test_an_import_is_rewritten_and_nothing_else(source, expected):
    around = '"""About."""\n\n{}\n\nx = 1  # from .core.cache import nothing\n'
    assert flattened(around.format(source), "modeling_mm.model", ROOT) == around.format(expected)


REFUSED = {
    "the front door": ("from .. import MMConfig", "names no file of the package"),
    "a file that is not there": ("from .nowhere import x", "names no file of the package"),
    "outside the package": ("from ....x import y", "leaves the package"),
    "two statements on a line": ("x = 1; from .core.cache import MMCache", "lines of its own"),
}


@pytest.mark.parametrize(("source", "message"), REFUSED.values(), ids=REFUSED)
def test_an_import_that_cannot_be_flat_is_refused_with_its_place(source, message):
    with pytest.raises(ValueError, match=rf"modeling_mm\.model, line 1: .*{message}"):
        flattened(source, "modeling_mm.model", ROOT)


@pytest.fixture(scope="module")
def everything() -> dict[str, str]:
    return flat_sources(ROOT, ALL)


def test_every_module_below_the_front_door_can_be_flat(everything):
    assert len(everything) == len(ALL)
    assert all(imported_modules((ROOT / f"{m.replace('.', '/')}.py").read_text(), m, ROOT) <= {*ALL} for m in ALL)


def test_transformers_sees_every_file_that_a_file_needs(everything):
    """By the expression that its loader uses, not by Python's grammar."""
    for name, text in everything.items():
        seen = set(re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE))
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level]
        needed = {node.module or alias.name for node in nodes for alias in node.names}
        assert needed == seen and {f"{module}.py" for module in seen} <= set(everything), name
        assert all(node.level == 1 for node in nodes)


def test_only_what_everyone_has_is_imported_outside_a_try(everything, tmp_path):
    for name, text in everything.items():
        (tmp_path / name).write_text(text)
        assert set(get_imports(tmp_path / name)) - set(sys.stdlib_module_names) <= REQUIRED, name
