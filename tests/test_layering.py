"""Who may import whom: the arrow of imports, held by reading every source file with `ast`.

    configuration, kernels -> processing, modeling_mm -> conversion_scripts, exporting -> front door
        -> training, evaluation -> cli

A folder imports only what ALLOWED names for it (folders between commas know nothing of each other, but for training,
which measures with evaluation); everything outside the package (tests, benchmarks, examples) imports
`mm` as any user does. No file is exempt.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FRONT_DOOR = "__init__"  # the root's __init__.py

MODEL = {"configuration", "kernels", "processing", "modeling_mm"}
LIBRARY = MODEL | {"conversion_scripts", "exporting", FRONT_DOOR}
ALLOWED = {
    "configuration": set(),
    "kernels": set(),
    "processing": {"configuration"},
    "modeling_mm": {"configuration", "kernels"},
    "conversion_scripts": MODEL,
    "exporting": MODEL,
    FRONT_DOOR: MODEL | {"conversion_scripts", "exporting"},
    "training": LIBRARY | {"evaluation"},
    "evaluation": LIBRARY,
    "cli": LIBRARY | {"training", "evaluation"},
}
FOLDERS = set(ALLOWED) - {FRONT_DOOR}
OUTSIDE = {"tests", "benchmarks", "checkpoints", "examples", "docs", "tools"}  # import `mm`, are never imported
NOT_OURS = {"build", "dist", "runs"}


def source_files(root: Path) -> Iterator[Path]:
    """Every .py file of the repository, as a path relative to its root."""
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if relative.parts[0] not in NOT_OURS and not relative.parts[0].startswith("."):
            yield relative


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import, wherever it stands; level 0 is absolute, as in ast.ImportFrom.

    `from a import b` is given as a.b: b may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module else ""
            yield from ((node.level, prefix + alias.name) for alias in node.names)


def folder_of(name: str) -> str:
    """Which part of the package `name`, dotted and relative to the root, belongs to."""
    first = name.split(".")[0]
    return first if first in FOLDERS else FRONT_DOOR


def faults_inside(relative: Path, tree: ast.AST) -> Iterator[str]:
    """Faults of a file of the package: its imports of ours are relative, and follow the arrow."""
    own = relative.parts[0] if len(relative.parts) > 1 else FRONT_DOOR
    depth = len(relative.parts)  # the level that reaches the root: 1 in __init__.py, 2 in kernels/x.py
    for level, name in imports(tree):
        if level == 0 and name.split(".")[0] == "mm":
            yield f"imports {name}: inside the package imports are relative"
        elif level > depth:
            yield f"imports {'.' * level}{name}: that is outside the package"
        elif level == depth and folder_of(name) not in ALLOWED[own] | {own}:
            yield f"imports {'.' * level}{name}: {own} may import {sorted(ALLOWED[own]) or 'none of ours'}"


def faults_outside(relative: Path, tree: ast.Module) -> Iterator[str]:
    """Faults of a test, a benchmark, an example or a script of the root: ours are imported as `mm`, as users do."""
    for level, name in imports(tree):
        if level > 0:
            yield f"imports {'.' * level}{name}: outside the package there is nothing to be relative to"
    if relative == Path("mm_console.py"):
        at_import = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
        for _, name in imports(at_import):
            if name.split(".")[0] == "mm":
                yield f"imports {name} at module level: `mm --help` must not wait for torch"


def faults(root: Path) -> list[str]:
    """Every breach of the layout in the tree at `root`, as "file: what is wrong"."""
    found = []
    for relative in source_files(root):
        tree = ast.parse((root / relative).read_text(encoding="utf-8"))
        top = relative.parts[0] if len(relative.parts) > 1 else ""
        if relative.name == "__init__.py" and top:
            found.append(f"{relative}: only the root has an __init__.py")
        if top and top not in FOLDERS | OUTSIDE:
            found.append(f"{relative}: the folder {top} has no place in the arrow")
            continue
        for level, name in imports(tree):
            if level == 0 and name.split(".")[0] in FOLDERS:
                found.append(f"{relative}: imports {name}, which is not mm.{name}")
        is_ours = top in FOLDERS or relative == Path("__init__.py")
        check = faults_inside if is_ours else faults_outside
        found.extend(f"{relative}: {fault}" for fault in check(relative, tree))
    return found


def test_imports_follow_the_arrow():
    assert faults(ROOT) == []


def test_the_package_folders_are_seen():
    seen = {relative.parts[0] for relative in source_files(ROOT)}
    assert {"__init__.py", "mm_console.py", "configuration", "processing", "modeling_mm", "cli", "tests"} <= seen


PLANTED = {
    "configuration imports upwards": ("configuration/a.py", "from ..modeling_mm.model import MMModel"),
    "configuration imports the front door": ("configuration/a.py", "from .. import MMConfig"),
    "processing imports its peer": ("processing/a.py", "from ..modeling_mm import model"),
    "kernels import a config": ("kernels/a.py", "from ..configuration.mm import MMConfig"),
    "the model imports the processor": ("modeling_mm/a.py", "def f():\n    from ..processing import image"),
    "a folder imported whole": ("modeling_mm/a.py", "from .. import cli"),
    "conversion imports the front door": ("conversion_scripts/a.py", "from .. import MMModel"),
    "the front door imports training": ("__init__.py", "from .training import recipe"),
    "evaluation imports training": ("evaluation/a.py", "from ..training.recipe import train"),
    "training imports the command line": ("training/a.py", "from ..cli.caption import caption"),
    "absolute import inside the package": ("cli/a.py", "import mm.modeling_mm.model"),
    "absolute from-import inside the package": ("training/a.py", "from mm import MMModel"),
    "an import that leaves the package": ("modeling_mm/a.py", "from ... import anything"),
    "a deeper folder leaves the package no sooner": ("modeling_mm/b/a.py", "from ...cli import caption"),
    "top-level kernels": ("tests/a.py", "import kernels"),
    "top-level kernels in the package": ("modeling_mm/a.py", "from kernels import get_kernel"),
    "top-level configuration": ("benchmarks/a.py", "from configuration.mm import MMConfig"),
    "a relative import outside the package": ("tests/a.py", "from ..modeling_mm import model"),
    "a second __init__": ("kernels/__init__.py", ""),
    "a folder without a place": ("helpers/a.py", ""),
    "a console that waits for torch": ("mm_console.py", "try:\n    import mm\nexcept ImportError:\n    pass"),
}


@pytest.mark.parametrize(("path", "source"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found(tmp_path, path, source):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(source)
    assert len(faults(tmp_path)) == 1


GOOD = {
    "siblings": ("modeling_mm/a.py", "from .base import MMPreTrainedModel\nfrom . import outputs"),
    "down the arrow": ("modeling_mm/a.py", "from ..configuration.mm import MMConfig\nfrom .. import kernels"),
    "training measures": ("training/a.py", "from ..evaluation.captions import exact_match"),
    "the command line uses the front door": ("cli/a.py", "from .. import MMConfig\nfrom ..training import recipe"),
    "tests import mm": ("tests/a.py", "import mm\nfrom mm.kernels.reference import attention"),
    "a lazy console": ("mm_console.py", "import typer\ndef caption():\n    from mm.cli.caption import caption"),
    "an environment beside the code": (".venv/a.py", "import kernels"),
}


@pytest.mark.parametrize(("path", "source"), GOOD.values(), ids=GOOD)
def test_what_the_arrow_allows_is_no_fault(tmp_path, path, source):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(source)
    assert faults(tmp_path) == []
