"""SIGTERM saves and ends: sent to one process, to all with their workers, under torchrun, and twice."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from mm.training.checkpoints import newest_complete

SCRIPT = Path(__file__).parents[1] / "long_run.py"
pytestmark = [pytest.mark.slow, pytest.mark.linux]


@contextmanager
def running(output: Path, processes: int, **settings):
    """A training in a session of its own, which has done two steps; nothing of it is left afterwards."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, "-W", "ignore", *start, str(SCRIPT), str(output), json.dumps(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        until = time.monotonic() + 120
        while not all((output / f"pid-{rank}").exists() for rank in range(processes)):
            assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
            time.sleep(0.05)
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def ended(output: Path, rank: int = 0) -> dict:
    return json.loads((output / f"end-{rank}").read_text())


def assert_saved(output: Path, told: str) -> None:
    newest, end = newest_complete(output), ended(output)
    assert newest is not None and newest.name == f"checkpoint-{end['step']}", told
    assert 2 <= end["step"] < 5000 and not (output / ".writing").exists()


@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_to_a_run_and_all_its_workers(tmp_path, times):
    output = tmp_path / "run"
    with running(output, 1, dataloader_num_workers=2) as process:
        for _ in range(times):
            os.killpg(process.pid, signal.SIGTERM)
        told = process.communicate(timeout=180)[0]
        assert process.returncode == 0, told
    assert_saved(output, told)


def test_sigterm_to_one_of_two_processes_ends_both(tmp_path):
    output = tmp_path / "run"
    with running(output, 2) as process:
        os.kill(int((output / "pid-1").read_text()), signal.SIGTERM)
        told = process.communicate(timeout=180)[0]
        assert process.returncode == 0, told
    assert_saved(output, told)
    assert ended(output, 0) == ended(output, 1)


def test_sigterm_to_torchrun_saves(tmp_path):
    """torchrun hands the signal on until its processes end, and says by its exit code that it was told to end."""
    output = tmp_path / "run"
    with running(output, 2, dataloader_num_workers=1) as process:
        os.kill(process.pid, signal.SIGTERM)
        told = process.communicate(timeout=180)[0]
    assert newest_complete(output) is not None and not (output / ".writing").exists(), told
