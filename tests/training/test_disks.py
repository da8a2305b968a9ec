"""A disk that is really full or read-only: small file systems in memory, which only root can mount."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from mm.training.checkpoints import checkpoints, newest_complete

pytestmark = pytest.mark.linux


@pytest.fixture
def disk(tmp_path):
    """disk(megabytes): a folder that is a file system of this size; mount it anew with other options by `remount`."""
    mounted = []

    def mount(megabytes: float) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # an error may still hold a file that is open


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_full_disk_ends_with_that_word_and_leaves_older_checkpoints(trainer, disk, tmp_path):
    trainer(output=tmp_path / "measured", max_steps=1).train()
    one = size_of(tmp_path / "measured" / "checkpoint-1") / 2**20
    ends = 0
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):  # of a third checkpoint, which does not fit
        output = disk((2 + share) * one + 0.25) / "run"
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as told:
            trainer(output=output, max_steps=40).train()
        assert told.value.errno == errno.ENOSPC
        newest = checkpoints(output)[0]
        assert newest_complete(output) == newest and newest.name in str(told.value)
        assert not (output / ".writing").exists()
        ends += 1
    assert ends == 5


def test_a_disk_that_becomes_read_only_ends_with_that_word(trainer, disk):
    folder = disk(16)
    run = trainer(output=folder / "run", max_steps=1)
    run.train()
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    run.state.global_step = 2
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)) as told:
        run._save_checkpoint(run.model, None)
    assert "checkpoint-1" in str(told.value) and newest_complete(folder / "run").name == "checkpoint-1"
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        trainer(output=folder / "run").train(resume_from_checkpoint=True)
