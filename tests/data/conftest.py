"""The small set of tests/published.py, as files."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from published import CAPTIONS, WRITERS


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(CAPTIONS):
        Image.new("RGB", (8 + number, 8), (40 * number, 200 - 40 * number, 90)).save(root / name)
    return root


@pytest.fixture(params=WRITERS)
def published(request, pictures, tmp_path) -> Path:
    """The set in one of the formats."""
    shutil.copytree(pictures, tmp_path / "set")
    return WRITERS[request.param](tmp_path / "set")


@pytest.fixture
def folder(pictures, tmp_path) -> Path:
    """A copy of the pictures that a test may add to."""
    return Path(shutil.copytree(pictures, tmp_path / "own"))
