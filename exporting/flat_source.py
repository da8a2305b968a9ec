"""Our modules as flat files that import each other from one folder, the only layout that remote code may have.

Transformers copies the files of a repository's code by their text: it looks for lines `from .name import`, one level
deep, and follows them; and raises an error for a file whose plain imports are not all installed. So
`modeling_mm/core/cache.py` becomes `modeling_mm_cache.py`, its `from ..configuration.text import X` becomes `from
.configuration_text import X`, and an import of an optional package (Triton) moves into a `try`, which Transformers
does not look into. The rest of a file is copied unchanged.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

# What everyone has who can load an MM model: setup.py's install_requires by their import names.
REQUIRED = {"torch", "transformers", "huggingface_hub", "tokenizers", "safetensors", "numpy", "PIL", "tqdm"}
_INSTALLED = REQUIRED | set(sys.stdlib_module_names)


def flat_name(module: str) -> str:
    """The flat name of a module of ours: "modeling_mm.cache" -> "modeling_mm_cache"."""
    return module.replace(".", "_")


def flat_sources(root: Path, modules: Iterable[str]) -> dict[str, str]:
    """{file name: text} of the modules (dotted, relative to `root`) and of all that they import of ours.

    Raises: ValueError for an import that no flat folder can say, naming its place.
    """
    sources, waiting = {}, sorted(set(modules))
    taken: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        if taken.setdefault(flat_name(module), module) != module:
            raise ValueError(f"{module} and {taken[flat_name(module)]} would both be {flat_name(module)}.py")
        name = f"{flat_name(module)}.py"
        if name not in sources:
            text = (root / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
            sources[name] = flattened(text, module, root)
            waiting.extend(sorted(imported_modules(text, module, root)))
    return sources


def imported_modules(text: str, module: str, root: Path) -> set[str]:
    """The modules of ours that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            found |= {target for target, _ in _targets(node, module, root)}
    return found


def flattened(text: str, module: str, root: Path) -> str:
    """A source with its imports rewritten; see above."""
    lines = text.splitlines()
    for node, is_guarded in reversed(list(_imports(ast.parse(text)))):
        rewritten = _rewritten(node, module, root, is_guarded)
        if rewritten is None:
            continue
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        indent = lines[first][: node.col_offset]
        if indent.strip() or ";" in lines[last - 1][: node.end_col_offset]:
            raise ValueError(f"{module}, line {node.lineno}: an import must be on lines of its own")
        lines[first:last] = [indent + line for line in rewritten]
    return "\n".join(lines) + "\n"


def _imports(node: ast.AST, is_guarded: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The imports of a source from top to bottom, and whether each stands in a `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_guarded
        yield from _imports(child, is_guarded or isinstance(child, ast.Try))


def _rewritten(node: ast.Import | ast.ImportFrom, module: str, root: Path, is_guarded: bool) -> list[str] | None:
    """The lines that replace an import; None to keep it."""
    if isinstance(node, ast.ImportFrom) and node.level:
        return _flat_import(node, module, root)
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    if is_guarded or all(name.split(".")[0] in _INSTALLED for name in names):
        return None
    return ["try:", f"    {ast.unparse(node)}", "except ImportError:", "    raise"]


def _flat_import(node: ast.ImportFrom, module: str, root: Path) -> list[str]:
    lines, names = [], []
    for target, alias in _targets(node, module, root):
        if alias is not None:
            names.append(alias)
            continue
        bound = next(one.asname or one.name for one in node.names if target.endswith(f".{one.name}"))
        # Transformers copies the files that `from .name import` names; `from . import name` alone it does not see.
        lines += [f"from .{flat_name(target)} import __name__ as _", f"from . import {flat_name(target)} as {bound}"]
    if names:
        target = next(target for target, alias in _targets(node, module, root) if alias is not None)
        listed = ", ".join(
            alias.name if alias.asname is None else f"{alias.name} as {alias.asname}" for alias in names
        )
        lines += [f"from .{flat_name(target)} import {listed}"]
    return lines


def _targets(node: ast.ImportFrom, module: str, root: Path) -> Iterator[tuple[str, ast.alias | None]]:
    """(module of ours, imported name) for each name; None: the module itself."""
    package = module.split(".")[: -node.level]
    if len(module.split(".")) < node.level:
        raise ValueError(f"{module}, line {node.lineno}: the import leaves the package")
    base = ".".join([*package, *([node.module] if node.module else [])])
    for alias in node.names:
        whole = f"{base}.{alias.name}" if base else alias.name
        if base and (root / f"{base.replace('.', '/')}.py").is_file():
            yield base, alias
        elif base and (root / f"{whole.replace('.', '/')}.py").is_file():
            yield whole, None
        else:
            raise ValueError(f"{module}, line {node.lineno}: {ast.unparse(node)!r} names no file of the package")
