"""Who may import whom: the arrow of imports, held by reading every source file with `ast`.

    configuration -> its checks -> configuration/mm.py        weights, kernels: import none of the model
    processing:   images -> videos -> sounds -> the processor and the collator
    modeling_mm:  core -> losses, towers -> fusion -> model.py -> explaining -> tasks
    searching: the model's embeddings of files, in the order of their likeness
    conversion_scripts, exporting -> front door -> recipes, cli        evaluation: numbers only, imports none of ours

A folder (or a file with a place of its own) imports only what ALLOWED names for it, and no module imports itself by
way of others. Everything outside the package (tests, benchmarks, examples) imports `mm` as any user does.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FRONT_DOOR = "__init__"  # the root's __init__.py

CONFIGURATION = {"configuration", "configuration.checks", "configuration.mm"}
PROCESSING = {"processing.images", "processing.videos", "processing.sounds", "processing"}
BELOW_TOWERS = CONFIGURATION | {"kernels", "modeling_mm.core"}
BELOW_TASKS = BELOW_TOWERS | {"modeling_mm.losses", "modeling_mm.towers", "modeling_mm.fusion", "modeling_mm"}
EXPLAINED = BELOW_TOWERS | {"modeling_mm.fusion", "modeling_mm"}
MODEL = BELOW_TASKS | {"modeling_mm.tasks", "weights", "explaining"}
LIBRARY = MODEL | PROCESSING | {"conversion_scripts", "exporting", "data", FRONT_DOOR}
# A place is a folder, or a file above its neighbours; a module belongs to the longest place that its name begins with.
ALLOWED = {
    "configuration": set(),
    "configuration.checks": {"configuration"},
    "configuration.mm": {"configuration", "configuration.checks"},
    "weights": {"configuration"},
    "kernels": set(),
    "processing.images": CONFIGURATION,
    "processing.videos": CONFIGURATION | {"processing.images"},
    "processing.sounds": CONFIGURATION | {"processing.images", "processing.videos"},
    "processing": CONFIGURATION | PROCESSING,
    "modeling_mm.core": CONFIGURATION | {"kernels", "weights"},
    "modeling_mm.losses": BELOW_TOWERS,
    "modeling_mm.towers": BELOW_TOWERS,
    "modeling_mm.fusion": BELOW_TOWERS | {"modeling_mm.towers"},
    "modeling_mm": BELOW_TOWERS | {"modeling_mm.towers", "modeling_mm.fusion"},
    "explaining": EXPLAINED,
    "modeling_mm.tasks": BELOW_TASKS | {"weights", "explaining"},
    "conversion_scripts": MODEL | PROCESSING,
    "exporting": MODEL | PROCESSING,
    FRONT_DOOR: MODEL
    | PROCESSING
    | {"conversion_scripts", "exporting", "data", "training", "searching", "evaluation", "explaining.timestamps"},
    "evaluation": set(),
    "explaining.timestamps": set(),
    "data": CONFIGURATION | PROCESSING,
    "training": MODEL | PROCESSING | {"data", "evaluation", "exporting"},
    "recipes": LIBRARY | {"evaluation"},  # beside the package: only a checkout has it
    "searching": CONFIGURATION | PROCESSING | {"modeling_mm.core", "modeling_mm.tasks", "weights"},
    "cli": LIBRARY | {"evaluation", "training", "searching"},
    "serving": LIBRARY | {"searching", "cli"},
    "demo": LIBRARY | {"evaluation", "searching", "cli"},
    "cli.commands": LIBRARY | {"evaluation", "training", "searching", "cli", "serving", "demo"},
}
FOLDERS = {place.split(".")[0] for place in ALLOWED} - {FRONT_DOOR}
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


def place_of(name: str) -> str:
    """Which place of ALLOWED the module `name`, dotted and relative to the root, belongs to."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in ALLOWED), FRONT_DOOR)


def at_import(tree: ast.Module) -> ast.Module:
    """What runs when a file is imported: all but the functions."""
    return ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])


def faults_inside(relative: Path, tree: ast.Module) -> Iterator[str]:
    """Faults of a file of the package: its imports of ours are relative, and follow the arrow."""
    parts = list(relative.with_suffix("").parts)
    own = place_of(".".join(parts))
    for level, name in imports(tree):
        if level == 0:
            if name.split(".")[0] == "mm":
                yield f"imports {name}: inside the package imports are relative"
        elif level > len(parts):
            yield f"imports {'.' * level}{name}: that is outside the package"
        else:
            target = ".".join([*parts[: len(parts) - level], *([name] if name else [])])
            if place_of(target) not in ALLOWED[own] | {own}:
                yield f"imports {'.' * level}{name}: {own} may import {sorted(ALLOWED[own]) or 'none of ours'}"
    if parts[:2] == ["cli", "commands"] and any(level for level, _ in imports(at_import(tree))):
        yield "imports ours at module level: `mm --help` must not wait for torch"


def modules_imported(root: Path, relative: Path) -> set[Path]:
    """The files of the package that a file imports, anywhere in it."""
    found = set()
    parts = relative.with_suffix("").parts
    for level, name in imports(ast.parse((root / relative).read_text(encoding="utf-8"))):
        if level:
            target = Path(*parts[: len(parts) - level], *name.split("."))
            found |= {
                one for one in (target.with_suffix(".py"), target.parent.with_suffix(".py")) if (root / one).is_file()
            }
    return found


def circles(root: Path) -> list[str]:
    """Every chain of imports that comes back to where it began."""
    open_, done, found = [], set(), []

    def visit(path: Path) -> None:
        if path in open_:
            found.append(" -> ".join(map(str, [*open_[open_.index(path) :], path])))
        elif path not in done:
            open_.append(path)
            for target in sorted(modules_imported(root, path)):
                visit(target)
            done.add(open_.pop())

    for relative in source_files(root):
        if relative.parts[0] in FOLDERS:
            visit(relative)
    return found


def faults_outside(relative: Path, tree: ast.Module) -> Iterator[str]:
    """Faults of a test, a benchmark, an example or a script of the root: ours are imported as `mm`, as users do."""
    for level, name in imports(tree):
        if level > 0:
            yield f"imports {'.' * level}{name}: outside the package there is nothing to be relative to"
    if relative == Path("mm_console.py"):
        for _, name in imports(at_import(tree)):
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
        is_ours = top in FOLDERS or relative in {Path("__init__.py"), Path("losses.py"), Path("metrics.py")}
        check = faults_inside if is_ours else faults_outside
        found.extend(f"{relative}: {fault}" for fault in check(relative, tree))
    return found


def test_imports_follow_the_arrow():
    assert faults(ROOT) == []


def test_no_module_imports_itself_by_way_of_others(tmp_path):
    assert circles(ROOT) == []
    (tmp_path / "kernels").mkdir()
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / "kernels" / f"{name}.py").write_text(f"def f():\n    from .{other} import f")
    assert len(circles(tmp_path)) == 1


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
    "the front door imports a recipe": ("__init__.py", "from .recipes import recipe"),
    "evaluation imports a recipe": ("evaluation/a.py", "from ..recipes.recipe import train"),
    "a recipe imports the command line": ("recipes/a.py", "from ..cli.caption import caption"),
    "core imports a tower": ("modeling_mm/core/a.py", "from ..towers.text import MMTextModel"),
    "core imports a loss": ("modeling_mm/core/a.py", "from ..losses import contrastive"),
    "a tower imports the fusion": ("modeling_mm/towers/a.py", "from ..fusion.context import join"),
    "the model imports a task": ("modeling_mm/model.py", "from .tasks.generation import score"),
    "a config imports what is made of it": ("configuration/text.py", "from .mm import MMConfig"),
    "weights import the model": ("weights/a.py", "from ..modeling_mm.core.base import MMPreTrainedModel"),
    "pictures import the processor": ("processing/images/a.py", "from ..processor import MMProcessor"),
    "absolute import inside the package": ("cli/a.py", "import mm.modeling_mm.model"),
    "absolute from-import inside the package": ("recipes/a.py", "from mm import MMModel"),
    "an import that leaves the package": ("modeling_mm/a.py", "from ... import anything"),
    "a deeper folder leaves the package no sooner": ("modeling_mm/core/a.py", "from ...cli import caption"),
    "top-level kernels": ("tests/a.py", "import kernels"),
    "top-level kernels in the package": ("modeling_mm/a.py", "from kernels import get_kernel"),
    "top-level configuration": ("benchmarks/a.py", "from configuration.mm import MMConfig"),
    "a relative import outside the package": ("tests/a.py", "from ..modeling_mm import model"),
    "a list of metrics that imports a recipe": ("metrics.py", "from .recipes.recipe import metric"),
    "a list of losses that imports a recipe": ("losses.py", "from .recipes.recipe import loss"),
    "a second __init__": ("kernels/__init__.py", ""),
    "a folder without a place": ("helpers/a.py", ""),
    "a command that waits for torch": ("cli/commands/a.py", "import typer\nfrom ..caption import print_captions"),
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
    "a recipe measures": ("recipes/a.py", "from ..evaluation.captions import exact_match"),
    "the command line uses the front door": ("cli/a.py", "from .. import MMConfig\nfrom ..evaluation import captions"),
    "a task uses a loss": ("modeling_mm/tasks/a.py", "from ..losses.contrastive import info_nce_loss"),
    "a lazy command": ("cli/commands/a.py", "import typer\ndef caption():\n    from ..caption import print_captions"),
    "tests import mm": ("tests/a.py", "import mm\nfrom mm.kernels.reference import attention"),
    "a lazy console": ("mm_console.py", "import typer\ndef caption():\n    from mm.cli.caption import caption"),
    "an environment beside the code": (".venv/a.py", "import kernels"),
}


@pytest.mark.parametrize(("path", "source"), GOOD.values(), ids=GOOD)
def test_what_the_arrow_allows_is_no_fault(tmp_path, path, source):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(source)
    assert faults(tmp_path) == []
