"""Two processes with FSDP2 by our plans train as one process does with both batches, save, and go on.

Run by itself, this file is one of the processes; it writes what it found for the tests to read.
"""

# Fixtures build models whose types pyright cannot follow, and what is sharded has DTensors for parameters.

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mm import MMForConditionalGeneration

STEPS = 3
MODELS = {
    "vit": {},
    "conv": {"vision": "conv", "text": "own"},
    "merged": {"fusion_type": "merged"},
    "untied": {"text": "llama", "tie_word_embeddings": False},
}


def batch_of(rank: int, step: int) -> dict[str, torch.Tensor]:
    """Three rows of two pictures for the first process; for the second three of text alone, with a blank."""
    generator = torch.Generator().manual_seed(2 * step + rank)
    ids = torch.randint(3, 50, (3, 5), generator=generator)
    pixels = torch.randn(2, 1, 3, 16, 16, generator=generator, dtype=torch.float64)
    index = torch.tensor([0, 0, 1])
    if rank == 1:
        pixels, index = torch.zeros_like(pixels[:1]), torch.zeros_like(index)
    real = torch.full(pixels.shape[:2], rank == 0)
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels,
        "pixel_attention_mask": real, "context_index": index, "labels": ids,
    }  # fmt: skip


def train(model, optimizer, ranks: list[int], steps: range) -> list[torch.Tensor]:
    """Losses of some steps: of both batches, or a process's share, which its gradient counts twice as in Trainer."""
    losses, processes = [], 3 - len(ranks)
    for step in steps:
        shares = [model(**batch_of(rank, step), num_items_in_batch=24).loss for rank in ranks]
        (sum(shares) * processes).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sum(shares).detach())
    return losses


def optimizer_of(model) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, foreach=False)


def main(folder: Path) -> None:
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    from transformers.distributed.configuration_utils import DistributedConfig

    torch.set_num_threads(1)

    def sharded():
        plan = DistributedConfig(fsdp_size=2)
        return MMForConditionalGeneration.from_pretrained(
            folder / "model", distributed_config=plan, dtype=torch.float64
        ).train()

    model, rank = sharded(), dist.get_rank()
    assert all(isinstance(p, DTensor) for p in model.parameters())
    text, vision = model.model.language_model, model.model.vision_tower
    groups = [*text.layers, *(vision.stages if hasattr(vision, "stages") else vision.layers), model]
    assert all(isinstance(group, FSDPModule) for group in groups)

    optimizer = optimizer_of(model)
    losses = train(model, optimizer, [rank], range(2))
    weights, moments = get_state_dict(model, optimizer)
    dist.checkpoint.save({"model": weights, "optimizer": moments}, checkpoint_id=folder / "state")
    losses += train(model, optimizer, [rank], range(2, STEPS))
    for loss in losses:
        dist.all_reduce(loss)
    model.save_pretrained(folder / "trained")

    again = sharded()
    resumed = optimizer_of(again)
    weights, moments = get_state_dict(again, resumed)
    dist.checkpoint.load({"model": weights, "optimizer": moments}, checkpoint_id=folder / "state")
    set_state_dict(again, resumed, model_state_dict=weights, optim_state_dict=moments)
    train(again, resumed, [rank], range(2, STEPS))
    for whole, parts in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(whole.full_tensor(), parts.full_tensor())
    if rank == 0:
        torch.save(torch.stack(losses), folder / "losses.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_two_processes_with_sharded_parameters_train_as_one_does(tiny_model, name, tmp_path):
    """Interrupted and resumed too, bit for bit; the second process has text alone, and nobody waits for it."""
    tiny_model(**MODELS[name]).save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, __file__, str(tmp_path)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert result.returncode == 0, result.stderr[-3000:]

    model = MMForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float64).train()
    losses = torch.stack(train(model, optimizer_of(model), [0, 1], range(STEPS)))
    torch.testing.assert_close(torch.load(tmp_path / "losses.pt"), losses, rtol=0, atol=1e-12)
    trained = MMForConditionalGeneration.from_pretrained(tmp_path / "trained", dtype=torch.float64)
    for (name, found), (_, expected) in zip(trained.named_parameters(), model.named_parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, msg=name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
