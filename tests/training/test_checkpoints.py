"""Checkpoints survive kills, full disks and other writers; a resume takes the newest complete one and is exact."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Seq2SeqTrainer, TrainerCallback

from mm.training import checkpoints
from mm.training.checkpoints import checkpoints as found_in
from mm.training.checkpoints import newest_complete
from mm.weights import manifest


class Stop(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = True


def names(output) -> list[str]:
    return sorted(path.name for path in Path(output).iterdir())


def weights(trainer) -> dict:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_is_complete_and_nothing_is_left_beside_it(trainer, tmp_path):
    run = trainer()
    run.train()
    assert names(tmp_path / "run") == [".lock", *(f"checkpoint-{step}" for step in (1, 2, 3, 4))]
    for path in found_in(tmp_path / "run"):
        assert manifest.faults_of(path) == [] and (path / "model.safetensors").is_file()


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_resumed_run_ends_with_the_same_weights(trainer, tmp_path, step):
    whole = trainer(output=tmp_path / "whole")
    whole.train()
    trainer(callbacks=[Stop(step)]).train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    assert_same(weights(resumed), weights(whole))


@pytest.mark.parametrize("length", [{"max_steps": 3}, {"max_steps": -1, "num_train_epochs": 1.5}])
def test_a_finished_run_is_not_trained_on(trainer, length):
    """Of steps, or a part of an epoch: Transformers 5.23 makes one step more."""
    whole = trainer(**length)
    whole.train()
    again = trainer(**length)
    assert again.train(resume_from_checkpoint=True).global_step == whole.state.global_step
    assert_same(weights(again), weights(whole))
    longer = trainer(max_steps=whole.state.global_step + 1)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == whole.state.global_step + 1


def test_a_resume_does_not_call_tied_weights_missing(trainer, caplog):
    trainer(max_steps=1).train()
    resumed = trainer(max_steps=1)
    with caplog.at_level("WARNING"):
        resumed.train(resume_from_checkpoint=True)
    assert "missing keys" not in caplog.text
    resumed._issue_warnings_after_load(torch.nn.modules.module._IncompatibleKeys(["lm_head.weight", "lost"], []))
    assert "missing keys in the checkpoint model loaded: ['lost']" in caplog.text


def test_a_broken_checkpoint_is_passed_over_and_said(trainer, tmp_path, caplog):
    trainer(callbacks=[Stop(3)]).train()
    newest = tmp_path / "run" / "checkpoint-3" / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)  # as many bytes as before
    (tmp_path / "run" / "checkpoint-2" / "optimizer.pt").unlink()
    told = []
    assert newest_complete(tmp_path / "run", told.append) == tmp_path / "run" / "checkpoint-1"
    assert "model.safetensors" in told[0] and "optimizer.pt" in told[1]


def test_a_checkpoint_that_is_named_must_be_as_it_was_saved(trainer, tmp_path):
    trainer(callbacks=[Stop(2)]).train()
    named = tmp_path / "run" / "checkpoint-2"
    state = named / "trainer_state.json"
    whole = state.read_text()
    state.write_text(whole.replace('"global_step": 2', '"global_step": 1'))
    with pytest.raises(ValueError, match=r"trainer_state\.json"):
        trainer().train(resume_from_checkpoint=str(named))
    (named / "manifest.json").unlink()
    state.write_text(whole.replace('"global_step": 2', '"global_step": "x"'))
    with pytest.raises(ValueError, match=r"trainer_state\.json.*global_step"):
        trainer().train(resume_from_checkpoint=str(named))
    state.write_text(whole)
    run = trainer()
    run.train(resume_from_checkpoint=str(named))
    assert run.state.global_step == 4


@pytest.mark.slow
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_checkpoints_of_transformers_trainer_and_ours_resume_in_each_other(trainer, tmp_path, first):
    whole = trainer(output=tmp_path / "whole")
    whole.train()

    def plain(callbacks=()):
        run = trainer()
        return Seq2SeqTrainer(run.model, run.args, run.data_collator, run.train_dataset, callbacks=list(callbacks))

    begins = trainer(callbacks=[Stop(2)]) if first == "ours" else plain([Stop(2)])
    begins.train()
    ends = plain() if first == "ours" else trainer()
    ends.train(resume_from_checkpoint=True)
    assert ends.state.global_step == 4
    assert_same(weights(ends), weights(whole))


def test_checkpoints_of_transformers_count_where_their_last_file_is_there(tmp_path):
    for step, state in ((1, "{}"), (2, '{"cut'), (3, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-1"


def test_rotation_keeps_the_newest_complete_one_and_the_best(tmp_path):
    for step in range(1, 7):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x" * step)
        manifest.write(folder)
    for step in (5, 6):  # cut off: the newest complete one is 4
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"")
    checkpoints.rotate(tmp_path, 1, keep=str(tmp_path / "checkpoint-2"))
    assert names(tmp_path) == [f"checkpoint-{step}" for step in (2, 4, 5, 6)]
    checkpoints.rotate(tmp_path, 1)
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-4"


def test_save_total_limit_under_trainer(trainer, tmp_path):
    trainer(save_total_limit=2).train()
    assert names(tmp_path / "run") == [".lock", "checkpoint-3", "checkpoint-4"]


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_save_leaves_a_complete_checkpoint(tmp_path):
    script = Path(__file__).parents[1] / "killed_saves.py"
    asked = [sys.executable, "-W", "ignore", str(script), str(tmp_path / "run"), "50"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout.splitlines()[-1])
    assert found["faults"] == [] and found["cut"] >= 10  # moments within a save, not only between two


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, pytest.param(errno.EIO, marks=SLOW), pytest.param(errno.EROFS, marks=SLOW)]
)
def test_errors_of_the_disk_end_with_their_word_and_leave_older_ones(trainer, tmp_path, monkeypatch, number):
    run, output = trainer(max_steps=1), tmp_path / "run"
    run.train()
    real, calls, points, fails_at = manifest.sync, 0, 0, 0

    def failing(path):
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(number, os.strerror(number), str(path))
        real(path)

    monkeypatch.setattr(manifest, "sync", failing)
    for point in range(1, 30):
        calls, fails_at, run.state.global_step = 0, point, 2
        try:
            run._save_checkpoint(run.model, None)
        except OSError as fault:
            points += 1
            assert fault.errno == number and os.strerror(number) in str(fault) and "checkpoint-1" in str(fault)
            assert names(output) == [".lock", "checkpoint-1"] and newest_complete(output) == output / "checkpoint-1"
        else:
            break
    assert points >= 7 and newest_complete(output) == output / "checkpoint-2"


def test_savers_that_do_not_name_the_full_disk_are_understood(trainer, tmp_path, monkeypatch):
    run = trainer(max_steps=1)
    run.train()

    def torch_save(*_):
        raise RuntimeError("[enforce fail] unexpected pos 352192 vs 352080")

    def no_room(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run, "_save_rng_state", torch_save)
    run.state.global_step = 2
    with pytest.raises(RuntimeError, match="unexpected pos"):  # the disk is well: the fault is told as it is
        run._save_checkpoint(run.model, None)
    monkeypatch.setattr(checkpoints.os, "fsync", no_room)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        run._save_checkpoint(run.model, None)


@pytest.mark.slow
@pytest.mark.linux
@pytest.mark.parametrize(("cases", "step"), [("0,1,2,3", 18), ("4,5,6,7", 7)])
def test_a_run_killed_at_a_step_and_resumed_ends_with_the_same_weights(cases, step):
    """Eight of the matrix that `make test-resume` runs as a whole."""
    script = Path(__file__).parents[1] / "resumed_runs.py"
    asked = [sys.executable, "-W", "ignore", str(script), "--cases", cases, "--steps", str(step)]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=600, check=False)
    assert told.returncode == 0, told.stdout + told.stderr[-2000:]
    assert json.loads(told.stdout.splitlines()[-1]) == {"runs": 4, "faults": []}


@pytest.mark.linux
def test_a_lock_ends_with_its_run_though_its_workers_live_on(tmp_path):
    held = checkpoints.lock(tmp_path / "run")
    ours, theirs = socket.socketpair()
    worker = os.fork()
    if not worker:
        ours.close()
        theirs.send(b"1")
        theirs.recv(1)  # until the test is over
        os._exit(0)
    theirs.close()
    try:
        ours.recv(1)
        with pytest.raises(BlockingIOError):  # the child has not given the lock of its parent away
            checkpoints.lock(tmp_path / "run")
        held.close()
        checkpoints.lock(tmp_path / "run").close()
    finally:
        ours.close()
        os.waitpid(worker, 0)


def test_a_second_run_into_the_same_folder_is_kept_out(trainer, tmp_path):
    held = checkpoints.lock(tmp_path / "run")
    with pytest.raises(BlockingIOError, match="another run"):
        trainer().train()
    held.close()
    trainer(max_steps=1).train()


def test_sigterm_saves_and_ends(trainer, tmp_path):
    class Told(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    run = trainer(callbacks=[Told()], save_steps=100, max_steps=50)
    run.train()
    assert run.state.global_step == 3 and newest_complete(tmp_path / "run").name == "checkpoint-3"
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_best_checkpoint_is_known_by_its_place(trainer, tmp_path):
    run = trainer(
        eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, metric_for_best_model="eval_loss",
        save_total_limit=1,
    )  # fmt: skip
    run.train()
    best = Path(run.state.best_model_checkpoint)
    assert best.parent == tmp_path / "run" and best.is_dir()
    state = json.loads((found_in(tmp_path / "run")[0] / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(best)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "files": {"a": 3}}', "\xff", "[" * 5000]
)
def test_broken_manifests_are_faults_in_words(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
    assert len(found := manifest.faults_of(tmp_path)) == 1 and "manifest" in found[0]


def test_a_manifest_names_nothing_outside(tmp_path):
    for name in ("../x", "/etc/hosts"):
        held = {"format": 1, "sha256": "0", "files": {name: {"size": 1, "sha256": "0"}}}
        (tmp_path / "manifest.json").write_text(json.dumps(held))
        assert "outside" in manifest.faults_of(tmp_path)[0]
