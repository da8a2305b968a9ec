"""A hook of mkdocs: a page of docstrings for each section of api.md, which lists every public name once."""

import re
import shutil
from pathlib import Path
from typing import Any

PLACES = {"Losses": "mm.losses", "Metrics": "mm.metrics"}
ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "build" / "site-source" / "mm"  # the package's files alone: read, not run
OUTSIDE = {"benchmarks", "build", "checkpoints", "docs", "examples", "findings", "recipes", "tests"}
PAGES: dict[str, str] = {}  # "reference/models.md" -> its text


def on_startup(**_: Any) -> None:
    """Before mkdocstrings looks for its folder."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for file in [*ROOT.glob("*.py"), *ROOT.glob("[!.]*/**/*.py")]:
        inside = file.relative_to(ROOT)
        if inside.parts[0] not in OUTSIDE:
            (SOURCE / inside).parent.mkdir(parents=True, exist_ok=True)
            (SOURCE / inside.parent / "__init__.py").touch()
            shutil.copyfile(file, SOURCE / inside)


def on_config(config: Any) -> Any:
    text = Path(config["docs_dir"], "api.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        title = section.splitlines()[0]
        if names := re.findall(r"^\| `(\w+)` \|", section, re.M):
            where = PLACES.get(title, "mm")
            blocks = "".join(f"\n::: {where}.{name}\n" for name in names)
            PAGES[f"reference/{title.lower().replace(' ', '-')}.md"] = f"# {title}\n{blocks}"
    config["nav"].append({"API reference": [*PAGES]})
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]: of mkdocs, which runs this file

    for uri, text in PAGES.items():
        files.append(File.generated(config, uri, content=text))
    return files
