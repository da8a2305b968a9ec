"""`make caption IMAGES=...` hands over the paths that its user meant. A stand-in for mm prints what it is given."""

import configparser
import os
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = [
    "a.png",
    "my pic.jpg",
    "two  spaces.png",
    "it's.png",
    "$5 off.png",
    "sub folder/b c.png",
    "pics/x.png",
    "pics/y z.png",
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder with a space in its name: the Makefile, an environment that looks made, and pictures."""
    folder = tmp_path_factory.mktemp("check out")
    for name in ("Makefile", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").touch()
    (binaries / "mm").write_text('#!/usr/bin/env bash\nshift\nprintf "%s\\n" "$@"\n')
    (binaries / "mm").chmod(0o755)
    (folder / ".venv" / ".installed-base").touch()
    for name in [*NAMES, "examples/pictures/p.png", "examples/pictures/q.png"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("images", "paths"),
    [
        (None, ["examples/pictures/p.png", "examples/pictures/q.png"]),
        ("a.png", ["a.png"]),
        ("my pic.jpg", ["my pic.jpg"]),
        ("a.png my pic.jpg pics", ["a.png", "my pic.jpg", "pics"]),
        ("sub folder", ["sub folder"]),
        ("sub folder/b c.png a.png", ["sub folder/b c.png", "a.png"]),
        ("two  spaces.png", ["two  spaces.png"]),
        ("it's.png", ["it's.png"]),
        ("it's.png a.png", ["it's.png", "a.png"]),
        ("$5 off.png", ["$5 off.png"]),
        ("'my pic.jpg' a.png", ["my pic.jpg", "a.png"]),
        (r"my\ pic.jpg a.png", ["my pic.jpg", "a.png"]),
        ("pics/*.png", ["pics/x.png", "pics/y z.png"]),
        ("nowhere.png a.png", ["nowhere.png", "a.png"]),
        ("no'where.png", ["no'where.png"]),
    ],
)
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_make_caption_hands_over_the_paths(checkout, images, paths, way):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "IMAGES"))}
    command = ["make", "--no-print-directory", "caption"]
    if images is not None and way == "argument":
        command.append(f"IMAGES={images}")
    elif images is not None:
        environment["IMAGES"] = images
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == paths


def test_pytest_has_the_same_settings_from_the_root_and_from_tests():
    ini = configparser.ConfigParser()
    ini.read(ROOT / "tests" / "pytest.ini")
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert ini["pytest"]["markers"].strip().splitlines() == root["markers"]
    assert ini["pytest"]["filterwarnings"].strip().splitlines() == root["filterwarnings"]
    left_out = [shlex.split(addopts)[-1] for addopts in (ini["pytest"]["addopts"], root["addopts"])]
    assert left_out[0] == left_out[1] and "not slow" in left_out[0]
