"""docs/processing.md is true: its examples run, its defaults, files and tables are those of the code and the logs."""

import inspect
import re
from pathlib import Path

import pytest
import torch

from mm import MMImageProcessorPil
from mm.processing.images.geometry import RESIZE_MODES
from mm.processing.images.limits import COSTLY_FORMATS, FORMATS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "processing.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def names():
    found: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S):
            exec(block, found)
    return found


def test_the_examples_give_what_they_say(names):
    assert names["pixel_values"].shape == (1, 3, 224, 224) and names["picture"].mode == "RGB"
    assert len(names["made"]["pixel_values"]) == 1
    batch = names["batch"]
    assert batch["pixel_values"].shape[0] == 1 and torch.isfinite(batch["pixel_values"]).all() and "labels" in batch


def test_the_limits_are_the_defaults():
    defaults = inspect.signature(MMImageProcessorPil.preprocess).parameters
    for name, millions in re.findall(r"^\| `(max_\w+)` \| (\d+) million", PAGE, flags=re.M):
        assert defaults[name].default == int(millions) * 1_000_000
    assert COSTLY_FORMATS == ("WEBP", "AVIF", "progressive JPEG")


def test_every_format_and_mode_is_named():
    assert all(name.lower() in PAGE.lower() for name in FORMATS)
    assert all(f'`"{mode}"`' in PAGE for mode in RESIZE_MODES)


@pytest.mark.parametrize("path", re.findall(r"`((?:tests|benchmarks)/[\w/.]+)`", PAGE))
def test_every_file_named_is_there(path):
    assert (ROOT / path).exists()


def test_the_tables_are_those_of_the_logs():
    for name in ("processing_memory", "image_throughput"):
        log = (ROOT / "benchmarks" / "logs" / f"{name}.txt").read_text(encoding="utf-8").strip()
        assert log in PAGE
