"""Two and three processes: losses and gradients of contrastive batches are those of one process with all their rows.

Run by itself, this file is one of the processes; it writes what it found for the tests to read.
"""

# Unpacked lists have no length for pyright, and DDP hides what it wraps.

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from mm.modeling_mm.losses.contrastive import info_nce_loss, logit_scale, sigmoid_loss
from mm.modeling_mm.losses.distillation import similarity_distillation_loss
from mm.modeling_mm.losses.gather import gather_rows
from mm.modeling_mm.losses.grad_cache import encode_in_chunks
from mm.modeling_mm.losses.momentum import MomentumContrast, momentum_copy, momentum_update
from mm.modeling_mm.losses.positive_pairs import Pairs
from mm.modeling_mm.losses.ring_sigmoid import ring_sigmoid_loss

pytestmark = pytest.mark.slow

WIDTH, STEPS, MOMENTUM = 5, 3, 0.9
# (pictures, texts) of the processes; a text belongs to picture (its number) % (pictures of its process)
SHARES = {
    "even": [(4, 4), (4, 4), (4, 4)],
    "uneven": [(4, 7), (2, 3), (3, 3)],
    "one has none": [(3, 5), (0, 0), (2, 2)],
}
KINDS = ["infonce", "ids", "sigmoid", "neighbours", "chunks", "momentum", "distillation"]
CASES = [f"{kind}, {share}" for kind in KINDS for share in SHARES]


class Towers(nn.Module):
    """Two towers, a scale, a bias and a loss of their embeddings, as a retrieval model has them."""

    def __init__(self, kind: str):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.image, self.text = (nn.Linear(WIDTH, WIDTH).double() for _ in "it")
        self.log_scale, self.bias = (nn.Parameter(torch.tensor(x, dtype=torch.float64)) for x in (1.5, -1.0))
        self.contrast = MomentumContrast(8, WIDTH).double()

    def encode(self, tower: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return normalize(tower(rows), dim=1)

    def forward(self, images, texts, pairs, teacher):
        size = 2 if self.kind == "chunks" else 1000
        embeds = [
            encode_in_chunks(lambda rows, tower=tower: self.encode(tower, rows), size, rows=rows)
            for tower, rows in ((self.image, images), (self.text, texts))
        ]
        scale = logit_scale(self.log_scale, 4.6)
        unread = 0 * self.bias
        if self.kind == "sigmoid":
            return sigmoid_loss(*embeds, pairs, scale, self.bias)
        if self.kind == "neighbours":
            return ring_sigmoid_loss(*embeds, pairs, scale, self.bias)
        with torch.no_grad():
            slow = teacher.encode(teacher.image, images), teacher.encode(teacher.text, texts)
        if self.kind == "momentum":
            return self.contrast(*embeds, *slow, pairs, scale, 0.4) + unread
        if self.kind == "distillation":
            return similarity_distillation_loss(*embeds, *slow, pairs, scale, 7.0) + unread
        return info_nce_loss(*embeds, pairs, scale, 0.1) + unread


def batch(kind: str, share: str, step: int, world: int, own: int | None):
    """(pictures, texts, Pairs) of one process, or of all where own is None."""
    counts = SHARES[share][:world]
    generator = torch.Generator().manual_seed(step)
    images, texts = (torch.randn(sum(n), WIDTH, generator=generator).double() for n in zip(*counts, strict=True))
    index = torch.cat([torch.arange(m) % max(n, 1) + sum(k for k, _ in counts[:i]) for i, (n, m) in enumerate(counts)])
    ids = {}
    if kind in ("ids", "momentum"):
        ids["image_ids"] = torch.arange(len(images)) % 4
    if kind == "ids":
        ids["text_ids"] = torch.arange(len(texts)) % 3
    if own is None:
        return images, texts, Pairs(len(images), len(texts), index, gather=False, **ids)
    first = [sum(count[side] for count in counts[:own]) for side in (0, 1)]
    of_images, of_texts = (slice(at, at + n) for at, n in zip(first, counts[own], strict=True))
    ids = {name: x[of_images if name == "image_ids" else of_texts] for name, x in ids.items()}
    return images[of_images], texts[of_texts], Pairs(*counts[own], index[of_texts] - first[0], **ids)


def train(towers: nn.Module, share: str, world: int, own: int | None) -> list[torch.Tensor]:
    """Losses, gradients and queues of some steps of descent."""
    bare = towers.module if isinstance(towers, DistributedDataParallel) else towers
    teacher, found = momentum_copy(bare), []
    for step in range(STEPS):
        loss = towers(*batch(bare.kind, share, step, world, own), teacher)
        bare.zero_grad()
        loss.backward()
        mean = loss.detach().clone()
        if own is not None:
            dist.all_reduce(mean)
            mean /= world
        found += [mean, *(p.grad.clone() for p in bare.parameters())]
        with torch.no_grad():
            for p in bare.parameters():
                p -= 0.1 * p.grad
        momentum_update(teacher, bare, MOMENTUM)
    return [*found, *(buffer.double() for buffer in bare.buffers())]


def error(kind: str, share: str, world: int, rank: int) -> float:
    """The largest difference between the processes and one that has everything."""
    towers = Towers(kind)
    expected = train(copy.deepcopy(towers), share, world, None)
    got = train(DistributedDataParallel(towers), share, world, rank)
    return max(float((ours - theirs).abs().max()) for ours, theirs in zip(got, expected, strict=True))


def evaluation(world: int, rank: int) -> dict[str, bool]:
    """Under no_grad the losses are those of the whole batch, and no process waits for a gradient."""
    found = {}
    for kind in ("infonce", "sigmoid", "neighbours"):
        towers = Towers(kind)
        with torch.no_grad():
            expected = towers(*batch(kind, "uneven", 0, world, None), towers)
            mean = loss = towers(*batch(kind, "uneven", 0, world, rank), towers)
            dist.all_reduce(mean := loss / world)
        found[kind] = not loss.requires_grad and bool((mean - expected).abs() <= 1e-12)
    rows = torch.full((rank + 1, 2), float(rank), requires_grad=True)
    with torch.no_grad():
        gathered = gather_rows(rows)
    found["rows"] = gathered[:, 0].tolist() == [float(r) for r in range(world) for _ in range(r + 1)]
    return found


def main(folder: str, rank: int, world: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = {case: error(*case.split(", "), world, rank) for case in CASES}
    report = {"errors": found, "evaluation": evaluation(world, rank)}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def reports(request, tmp_path_factory):
    """What each of the processes found."""
    folder, world = tmp_path_factory.mktemp("processes"), request.param
    commands = [[sys.executable, __file__, str(folder), str(rank), str(world)] for rank in range(world)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True, env=environment) for c in commands]
    errors = [process.communicate(timeout=300)[1][-2000:] for process in started]
    assert not any(process.returncode for process in started), "\n\n".join(errors)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_queues_are_those_of_one_process(reports, case):
    assert max(report["errors"][case] for report in reports) <= 1e-12


@pytest.mark.parametrize("what", ["infonce", "sigmoid", "neighbours", "rows"])
def test_evaluation_gathers_without_gradients(reports, what):
    assert all(report["evaluation"][what] for report in reports)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
