"""Pre-training and retrieval over processes: DDP's loss and gradients are those of the whole batch in one."""

# Fixtures build models whose types pyright cannot follow.

import socket
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from mm import MMForImageTextRetrieval, MMForPreTraining

SCRIPT = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import mm

dist.init_process_group("gloo")
rank, share = dist.get_rank(), torch.load(sys.argv[3])[dist.get_rank()]
model = getattr(mm, sys.argv[1]).from_pretrained(sys.argv[2], dtype=torch.float64).train()
wrapped = DistributedDataParallel(model)
torch.manual_seed(7)
output = wrapped(**share)
output.loss.backward()
losses = torch.stack([output[name].detach() for name in sorted(output) if name.startswith("loss")])
dist.all_reduce(losses)
if rank == 0:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    torch.save((losses / dist.get_world_size(), gradients), sys.argv[4])
else:  # evaluation waits for nobody: the first process does not take part
    with torch.no_grad():
        assert torch.isfinite(model.eval()(**share, return_loss=True).loss)
dist.barrier()
dist.destroy_process_group()
"""

IDS = torch.tensor([[1, 5, 6, 9], [1, 5, 6, 2], [1, 7, 8, 2], [1, 4, 0, 0], [1, 9, 2, 0], [1, 5, 6, 2], [1, 3, 8, 4]])
INDEX = torch.tensor([0, 0, 1, 2, 3, 3, 4])
HIDDEN = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]]).bool()
MLM = torch.tensor(
    [[-100, 7, -100, -100], [-100, 5, -100, -100], [-100] * 4, [-100, 4, -100, -100]] + [[-100] * 4] * 3
)


def whole_batch() -> dict:
    """Seven texts, two equal ones among them, of five pictures."""
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masked = IDS.masked_fill(MLM != -100, 3)
    rows = {"input_ids": IDS, "attention_mask": IDS.ne(0).long(), "masked_input_ids": masked, "mlm_targets": MLM}
    return {**rows, "pixel_values": pixels, "context_index": INDEX, "bool_masked_pos": HIDDEN}


def shares_of(batch: dict, rows: int, pictures: int) -> list[dict]:
    """The first rows, with a column of padding more, and pictures; and the rest."""
    per_picture = ("pixel_values", "bool_masked_pos")
    first = {name: value[: pictures if name in per_picture else rows] for name, value in batch.items()}
    last = {name: value[pictures if name in per_picture else rows :] for name, value in batch.items()}
    fills = {"input_ids": 0, "attention_mask": 0, "masked_input_ids": 0, "mlm_targets": -100}
    first |= {name: torch.nn.functional.pad(first[name], (0, 1), value=fills[name]) for name in fills if name in first}
    return [first, {**last, "context_index": last["context_index"] - pictures}]


def over_processes(model, shares: list[dict], folder) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(each loss, the mean over the processes, by name in order), the gradients that DDP leaves."""
    model.save_pretrained(folder / "model")
    torch.save(shares, folder / "shares.pt")
    (folder / "run.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", len(shares), "--master_port", port]
    command += [folder / "run.py", type(model).__name__, folder / "model", folder / "shares.pt", folder / "result.pt"]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(folder / "result.pt")


SIGMOID = {"contrastive_loss": "sigmoid", "logit_bias_init_value": -2.0}
SETTINGS = {
    "all losses": (MMForPreTraining, {"share_text_encoder": True, "mim_target": "features", "mim_momentum": 0.9}),
    "retrieval": (MMForImageTextRetrieval, SIGMOID),
    "ring of chunks": (
        MMForImageTextRetrieval, {**SIGMOID, "contrastive_exchange": "ring", "contrastive_chunk_size": 2}
    ),
    "queue": (MMForImageTextRetrieval, {"contrastive_queue_size": 8, "contrastive_soft_targets": 0.4}),
}  # fmt: skip


@pytest.mark.slow  # in make test two processes share losses in test_distributed_losses.py
@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_learn_what_one_does_with_the_whole_batch(tiny_model, name, tmp_path):
    """Uneven shares; negatives for matching are drawn over both, and so are the random numbers."""
    cls, fields = SETTINGS[name]
    losses = ["itc", "itm", "lm", "mlm", "mim"] if cls is MMForPreTraining else ["itc", "itm"]
    losses = ["itc"] if "contrastive_chunk_size" in fields else losses
    model = tiny_model(
        cls=cls, projection_dim=12, pretraining_losses=dict.fromkeys(losses, 0.7),
        vision_config={"use_mask_token": cls is MMForPreTraining}, **fields,
    )  # fmt: skip
    batch = whole_batch()
    if cls is MMForImageTextRetrieval:
        batch = {name: value for name, value in batch.items() if "mask" not in name or name == "attention_mask"}
        batch.pop("mlm_targets")
    found, gradients = over_processes(model, shares_of(batch, 4, 3), tmp_path)
    torch.manual_seed(7)
    output = model.train()(**batch)
    output.loss.backward()
    expected = torch.stack([output[name].detach() for name in sorted(output) if name.startswith("loss")])
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, trained[name], rtol=1e-10, atol=1e-11, msg=name)


@pytest.mark.slow
def test_a_process_without_pictures_takes_part(tiny_model, tmp_path):
    """Its texts count for the language loss, and nothing waits for what it does not have."""
    model = tiny_model(cls=MMForPreTraining, projection_dim=12)
    full = {name: whole_batch()[name] for name in ("input_ids", "attention_mask", "pixel_values", "context_index")}
    blank = {
        "input_ids": IDS[:2], "pixel_values": full["pixel_values"][:1, None] * 0,
        "pixel_attention_mask": torch.zeros(1, 1, dtype=torch.bool), "context_index": torch.zeros(2, dtype=torch.long),
    }  # fmt: skip
    _, gradients = over_processes(model, [full, blank], tmp_path)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == gradients.keys()
