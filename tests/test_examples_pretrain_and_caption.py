"""examples/pretrain_and_caption.py runs as its head says, and learns the twelve names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def written(tmp_path: Path, steps: int) -> list[tuple[str, str, str]]:
    """(name, caption, nearest picture) of every picture, after that many steps."""
    command = [
        sys.executable, "examples/pretrain_and_caption.py", "examples/pictures", "--output_dir", tmp_path / "model",
        "--max_steps", steps, "--use_cpu", "--report_to", "none", "--disable_tqdm", "true",
    ]  # fmt: skip
    run = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return re.findall(r"^(.+): caption '(.*)', nearest picture '(.*)'$", run.stdout, flags=re.M)


@pytest.mark.slow
def test_every_picture_is_captioned_and_found_by_its_name(tmp_path):
    found = written(tmp_path, steps=150)
    assert len(found) == 12
    assert sum(name == caption for name, caption, _ in found) >= 10
    assert sum(name == nearest for name, _, nearest in found) >= 10
