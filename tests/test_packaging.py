"""What `pip install` puts where: setup.py names every folder of the package, the wheel holds them and no more."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_DATA = "checkpoints"


def folders_of_setup() -> list[str]:
    """FOLDERS of setup.py, without running it."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FOLDERS":
            return ast.literal_eval(node.value)
    raise AssertionError("setup.py has no FOLDERS")


def package_files() -> set[str]:
    """What a wheel must hold beside its metadata: the modules of each folder, the root's four, the checkpoint and the
    recipes of training."""
    modules = {
        f"mm/{path.relative_to(ROOT)}"
        for folder in folders_of_setup()
        for path in (ROOT / folder.replace(".", "/")).glob("*.py")
    }
    checkpoint = {f"mm/{path.relative_to(ROOT)}" for path in (ROOT / PACKAGE_DATA).glob("mm-tiny/*")}
    recipes = {f"mm/{path.relative_to(ROOT)}" for path in ROOT.glob("training/recipes/*.yaml")}
    assert checkpoint and recipes
    return {"mm/__init__.py", "mm/losses.py", "mm/metrics.py", "mm_console.py"} | modules | checkpoint | recipes


def test_setup_lists_every_folder_of_the_package():
    outside = {"tests", "benchmarks", "recipes", "examples", "docs", "findings", "checkpoints"}
    outside |= {"build", "dist", "runs"}
    files = (path.relative_to(ROOT) for path in ROOT.glob("[!.]*/**/*.py"))
    folders = {".".join(path.parent.parts) for path in files if path.parts[0] not in outside}
    assert sorted(folders_of_setup()) == sorted(folders)


@pytest.mark.slow
def test_the_wheel_made_from_the_sdist_holds_the_package_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skipped)
    for words in (["init", "-q"], ["remote", "add", "origin", "git@example.org:someone/mm.git"]):
        subprocess.run(["git", "-C", str(source), *words], check=True)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == package_files()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    told = archive.read(metadata).decode()
    assert "Project-URL: Issues, https://example.org/someone/mm/issues\n" in told  # where it was cloned from
    assert all(f"Python :: 3.{minor}\n" in told for minor in (11, 12, 13))
