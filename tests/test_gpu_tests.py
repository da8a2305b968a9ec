"""The tests in tests/gpu where there is no GPU: left out unless asked for, then failing in words, and sound."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent / "gpu"


def run(*arguments: str, file: str = "", **environment: str) -> subprocess.CompletedProcess:
    """pytest in a process of its own that sees no GPU."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / file), *arguments]
    settings = {**kept, "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=settings)


@pytest.mark.slow
def test_they_are_left_out_by_default():
    done = run()
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED and "deselected" in done.stdout


@pytest.mark.slow
def test_asked_for_without_a_gpu_they_fail_in_words():
    done = run("-m", "gpu", "-k", "test_it_is_the_default_on_a_gpu")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "tests marked gpu want an NVIDIA GPU, and torch.cuda.is_available() is False" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.kernel_full
@pytest.mark.parametrize(
    ("file", "which"),
    [("test_graphs.py", ""), ("test_models.py", ""), ("test_kernels.py", "every"), ("test_kernels.py", "not every")],
)
def test_on_the_cpu_through_the_interpreter_they_pass(file, which):
    """In four parts, which workers share: each is minutes."""
    done = run("-m", "gpu", "-k", which, file=file, MM_GPU_TESTS_ON_CPU="1", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(r"[1-9]\d* passed", done.stdout)
