"""Rows of all processes, put together in the order of their ranks; numbers of rows may differ between them.

Without torch.distributed, or with one process, everything here gives back what it is given.
"""

# Some builds of torch lack torch.distributed, so its stubs are partial.

from typing import TypeAlias

import torch
import torch.distributed as dist
from torch.nn.functional import pad

Group: TypeAlias = "dist.ProcessGroup | None"


def world_size(group: Group = None) -> int:
    """How many processes there are; 1 without torch.distributed."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank_of(group: Group = None) -> int:
    """The number of this process in the group."""
    return dist.get_rank(group) if world_size(group) > 1 else 0


def gather_sizes(sizes: list[int], device: torch.device | str, group: Group = None) -> list[list[int]]:
    """Some numbers of each process -> for each of them, its value on every rank."""
    if world_size(group) == 1:
        return [[size] for size in sizes]
    own = torch.tensor(sizes, device=device)
    each = [torch.empty_like(own) for _ in range(world_size(group))]
    dist.all_gather(each, own, group=group)
    return torch.stack(each, 1).tolist()


def gather_rows(rows: torch.Tensor, sizes: list[int] | None = None, group: Group = None) -> torch.Tensor:
    """(n, ...) of each process -> (sum of n, ...) on every one.

    The gradient of a row is the sum of what all processes send back to it. Under no_grad, and for rows that need no
    gradient, nothing is kept and nothing is sent back.

    Args:
        rows: n rows of this process; n may be another one elsewhere, the rest of the shape not.
        sizes: n of every rank, if it is known (`gather_sizes`); asked for otherwise.
    """
    if world_size(group) == 1:
        return rows
    sizes = gather_sizes([len(rows)], rows.device, group)[0] if sizes is None else sizes
    if not sum(sizes):
        return rows  # no process has a row to move
    if torch.is_grad_enabled() and rows.requires_grad:
        return _GatherRows.apply(rows, sizes, group)
    return _gather(rows, sizes, group)


def _gather(rows: torch.Tensor, sizes: list[int], group: Group) -> torch.Tensor:
    """Short shares are padded for the way: a collective moves equal shapes."""
    longest = max(sizes)
    padded = pad(rows.detach(), (0, 0) * (rows.ndim - 1) + (0, longest - len(rows))).contiguous()
    each = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(each, padded, group=group)
    return torch.cat([share[:size] for share, size in zip(each, sizes, strict=True)])


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, sizes, group):
        ctx.sizes, ctx.group = sizes, group
        return _gather(rows, sizes, group)

    @staticmethod
    def backward(ctx, *grads):
        total = grads[0].contiguous().clone()  # all_reduce writes into what it is given
        dist.all_reduce(total, group=ctx.group)
        return total[own_slice(ctx.sizes, rank_of(ctx.group))], None, None


def own_slice(sizes: list[int], rank: int) -> slice:
    """The place of a process's rows among all."""
    first = sum(sizes[:rank])
    return slice(first, first + sizes[rank])
