"""MMTrainer under torchrun: a killed process starts all again from the newest complete checkpoint; FSDP2 on CPUs."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mm
from small_trainer import small_trainer
from written_shards import write_shards

PROGRAM = Path(__file__).parent / "train_in_processes.py"
CHECKPOINT = Path(__file__).parents[1] / "checkpoints/mm-tiny"


def train(folder: Path, run: str, *asked: str, restarts: int = 0) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "--max-restarts", str(restarts), str(PROGRAM), str(folder), run]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    result = subprocess.run([*command, *asked], capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stderr


def trained(folder: Path, run: str) -> dict[str, torch.Tensor]:
    model = mm.MMForConditionalGeneration.from_pretrained(folder / run)
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.slow
def test_a_killed_process_starts_all_again_from_the_newest_checkpoint(tmp_path):
    write_shards(tmp_path, [7, 6])
    train(tmp_path, "whole")
    told = train(tmp_path, "killed", "--kill", "1", "5", restarts=1)
    assert (
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in told
        and "resuming from" in told
        and "checkpoint-4" in told
        and (tmp_path / "was-killed").exists()
    )
    whole, killed = trained(tmp_path, "whole"), trained(tmp_path, "killed")
    for name in whole:
        torch.testing.assert_close(killed[name], whole[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
def test_sharded_parameters_train_as_whole_ones(tmp_path):
    """FSDP2 by DistributedConfig: Trainer resumes no such model, so checkpoints hold its weights only, whole."""
    write_shards(tmp_path, [7, 6])
    train(tmp_path, "whole")
    train(tmp_path, "sharded", "--fsdp")
    whole, sharded = trained(tmp_path, "whole"), trained(tmp_path, "sharded")
    for name in whole:
        torch.testing.assert_close(sharded[name], whole[name], rtol=1e-5, atol=1e-6, msg=name)
    assert trained(tmp_path, "sharded/checkpoint-6").keys() == whole.keys()


@pytest.mark.slow
def test_fsdp_that_does_not_take_place_is_refused(tmp_path):
    write_shards(tmp_path, [7, 6])
    with pytest.raises(AssertionError, match="FSDP.*CPU"):
        train(tmp_path, "refused", "--fsdp-by-trainer")


@pytest.mark.parametrize("restarts, shared, warns", [("2", "True", True), ("2", "False", False), ("0", "True", False)])
def test_restarts_over_one_store_are_warned_of(tmp_path, monkeypatch, caplog, restarts, shared, warns):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", shared)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("mm"), "propagate", True)
    small_trainer(tmp_path, mm.MMProcessor.from_pretrained(CHECKPOINT), [])
    assert ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE" in caplog.text) == warns
