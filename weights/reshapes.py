"""Changes of tensors in a conversion other than renaming: one named change of shape each, with its inverse."""

from collections.abc import Callable
from typing import NamedTuple

import torch

List = list[torch.Tensor]


class Reshape(NamedTuple):
    """One change of shape and its inverse, over the tensors of one entry of a table.

    forward: old tensors -> (new tensors, tensors that the model does not read but the way back needs).
    backward: new tensors, the unread ones or [] -> old tensors.
    is_view: forward's tensors share memory with the old ones; otherwise they are new, and the old ones are read for
        them.
    """

    name: str
    forward: Callable[[List], tuple[List, List]]
    backward: Callable[[List, List], List]
    is_view: bool = False


SAME = Reshape("as it is", lambda old: (old, []), lambda new, unread: new, is_view=True)
# Conv1D keeps inputs first; a bias has nothing to turn.
TRANSPOSE = Reshape("transposed", lambda old: ([_turned(old[0])], []), lambda new, unread: [_turned(new[0])])


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy, of a bias too: a small view of a file would keep all that is read of it in memory."""
    return tensor.t().clone(memory_format=torch.contiguous_format)


def own_storage(part: torch.Tensor) -> torch.Tensor:
    """Rows of a tensor as one with a storage of its own, over the same memory: tensors that share one are saved as
    copies."""
    if not part.is_contiguous():
        return part.contiguous()
    start = part.storage_offset() * part.element_size()
    own = part.untyped_storage()[start : start + part.nbytes]
    return torch.empty(0, dtype=part.dtype).set_(own, 0, part.shape, part.stride())


def summands(total: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> List:
    """Two tensors whose sum, rounded, is `total`: `one` and `two` themselves where it is; what was trained since is
    all in the first."""
    moved = total - two
    one = torch.where(one + two == total, one, moved)
    holds = one + two == total
    return [torch.where(holds, one, total), torch.where(holds, two, torch.zeros_like(two))]


def split(parts: int, transposed: bool = False) -> Reshape:
    """A fused projection, outputs first: its rows in equal parts. transposed: Conv1D's, inputs first."""

    def forward(old: List) -> tuple[List, List]:
        fused = old[0].t() if transposed else old[0]
        if len(fused) % parts:
            raise ValueError(f"{len(fused)} outputs are not {parts} equal parts")
        if transposed:
            return [part.clone(memory_format=torch.contiguous_format) for part in fused.chunk(parts)], []
        return [own_storage(part) for part in fused.chunk(parts)], []

    def backward(new: List, unread: List) -> List:
        fused = torch.cat(new)
        return [_turned(fused) if transposed else fused]

    return Reshape(f"split in {parts}", forward, backward, is_view=not transposed)


def lead(dimensions: int) -> Reshape:
    """`dimensions` leading dimensions of size 1 in the source that the model does not have; negative: the reverse."""

    def add(tensor: torch.Tensor, count: int) -> torch.Tensor:
        return tensor[(None,) * count] if count > 0 else tensor.reshape(tensor.shape[-count:]) if count else tensor

    return Reshape(
        f"{abs(dimensions)} leading dimensions {'less' if dimensions > 0 else 'more'}",
        lambda old: ([add(old[0], -dimensions)], []),
        lambda new, unread: [add(new[0], dimensions)],
        is_view=True,
    )


def skip_rows(count: int) -> Reshape:
    """A table of embeddings without its first rows, which nothing reads; going back they come back, or are zeros."""

    def forward(old: List) -> tuple[List, List]:
        return [own_storage(old[0][count:])], [own_storage(old[0][:count])]

    def backward(new: List, unread: List) -> List:
        first = unread[0] if unread and len(unread[0]) == count else new[0].new_zeros(count, *new[0].shape[1:])
        return [torch.cat([first, new[0]])]

    return Reshape(f"without {count} rows", forward, backward, is_view=True)


def joined(rows: int) -> Reshape:
    """Two tables as one: the first has `rows` rows."""

    def backward(new: List, unread: List) -> List:
        return [own_storage(new[0][:rows]), own_storage(new[0][rows:])]

    return Reshape("joined: two tables", lambda old: ([torch.cat(old)], []), backward)


def patch_kernel(patch_size: int, channels: int) -> Reshape:
    """A linear layer over the pixels of a patch, (D, rows * columns * channels), as a convolution's kernel."""

    def forward(old: List) -> tuple[List, List]:
        return [old[0].unflatten(1, (patch_size, patch_size, channels)).permute(0, 3, 1, 2).contiguous()], []

    def backward(new: List, unread: List) -> List:
        return [new[0].permute(0, 2, 3, 1).flatten(1).contiguous()]

    return Reshape("a kernel of patches", forward, backward)


# Tensors of one row each (or (1, 1, D)), one per number, as the rows of one table.
STACK = Reshape(
    "stacked",
    lambda old: ([torch.stack([row.flatten() for row in old])], []),
    lambda new, unread: [row[None, None].clone() for row in new[0]],
)
# Two classes that are numbered the other way round.
FLIP = Reshape("flipped", lambda old: ([old[0].flip(0)], []), lambda new, unread: [new[0].flip(0)])
