"""Which picture and which text of a batch, over all processes, belong together.

B pictures and R texts of this process, N and M of all processes.
"""

import torch

from ..core.context_rows import MMRows
from ..core.input_checks import INTEGERS, check_tensors
from .gather import Group, gather_rows, gather_sizes, own_slice, rank_of

_PRIME = 0x100000001B3  # FNV's, a factor whose powers fill int64


class Pairs:
    """The positives of a contrastive batch; every other pair is a negative.

    A text belongs to its own picture (`context_index`), to pictures with the same id, and to every picture that one of
    its duplicates (the same text id) belongs to.

    Args:
        num_images, num_texts: B, R of this process; a process may have none.
        context_index: int64 (R,), text -> picture of this process. None: R = k*B, text r belongs to picture r // k.
        image_ids: int64 (B,), equal for equal pictures, on every process. None: all are different.
        text_ids: int64 (R,), equal for equal texts, as `row_ids` makes them. None: all are different.
        gather: over all processes of `group`; False: only this process.
        device: of the positives, if no tensor is given.

    Raises: ValueError or TypeError for an index or ids of another shape or dtype.
    """

    def __init__(
        self,
        num_images: int,
        num_texts: int,
        context_index: torch.Tensor | None = None,
        *,
        image_ids: torch.Tensor | None = None,
        text_ids: torch.Tensor | None = None,
        gather: bool = True,
        group: Group = None,
        device: torch.device | str | None = None,
    ):
        _check_ids("image_ids", image_ids, num_images)
        _check_ids("text_ids", text_ids, num_texts)
        given = next((x for x in (context_index, image_ids, text_ids) if x is not None), None)
        device = torch.device(device or ("cpu" if given is None else given.device))
        if num_texts:
            index = MMRows(num_texts, num_images, context_index).index(device)
        else:
            _check_ids("context_index", context_index, 0)
            index = torch.empty(0, dtype=torch.long, device=device)
        self.gather, self.group, self.rank = gather, group, rank_of(group) if gather else 0
        sizes = [num_images, num_texts]
        self.image_sizes, self.text_sizes = (
            gather_sizes(sizes, device, group) if gather else [[size] for size in sizes]
        )
        self.has_image_ids = image_ids is not None
        numbers = torch.arange(num_images, device=device) + self.images.start
        numbers = numbers if image_ids is None else image_ids.to(device)
        self.image_numbers = self.gathered(numbers, self.image_sizes)  # (N,)
        self.text_numbers = self.gathered(numbers[index], self.text_sizes)  # (M,), of the picture of each text
        self._table = None
        if text_ids is not None:
            self._count_duplicates(self.gathered(text_ids.to(device), self.text_sizes))

    def _count_duplicates(self, text_ids: torch.Tensor) -> None:
        """A table of (different picture, different text): which belong together."""
        pictures, image_classes = self.image_numbers.unique(return_inverse=True)
        texts, text_classes = text_ids.unique(return_inverse=True)
        own = torch.searchsorted(pictures, self.text_numbers)
        self._table = torch.zeros(len(pictures), len(texts), dtype=torch.bool, device=text_ids.device)
        self._table[own, text_classes] = True
        self._image_classes, self._text_classes = image_classes, text_classes

    @property
    def world_size(self) -> int:
        """How many processes the batch is spread over."""
        return len(self.image_sizes)

    @property
    def images(self) -> slice:
        """The place of this process's pictures among all."""
        return own_slice(self.image_sizes, self.rank)

    @property
    def texts(self) -> slice:
        """The place of this process's texts among all."""
        return own_slice(self.text_sizes, self.rank)

    def gathered(self, rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        """The rows of all processes; sizes are `image_sizes` or `text_sizes`."""
        return gather_rows(rows, sizes, self.group) if self.gather else rows

    def positives(self, images: slice = slice(None), texts: slice = slice(None)) -> torch.Tensor:
        """bool (n, m), whether picture and text belong together; the slices count over all processes."""
        if self._table is None:
            return self.image_numbers[images, None] == self.text_numbers[None, texts]
        return self._table[self._image_classes[images]][:, self._text_classes[texts]]

    def count_images(self) -> torch.Tensor:
        """int64 (), how many of the N pictures have a text, to divide by: at least 1."""
        return torch.isin(self.image_numbers, self.text_numbers).sum().clamp(min=1)

    def count_texts(self) -> int:
        """M, to divide by: at least 1."""
        return max(sum(self.text_sizes), 1)


def row_ids(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """int64 (R,), the same for the same real tokens in the same order, wherever the padding is; a hash of 64 bits."""
    ids = input_ids.long()
    real = torch.ones_like(ids) if attention_mask is None else attention_mask.long()
    powers = torch.full((ids.shape[1],), _PRIME, device=ids.device).cumprod(0)  # overflows on purpose
    place = (real.cumsum(1) - 1).clamp(min=0)
    mixed = (ids + 1) * _PRIME
    return ((mixed ^ (mixed >> 29)) * powers[place] * real).sum(1)


def _check_ids(name: str, ids: torch.Tensor | None, count: int) -> None:
    check_tensors(**{name: ids})
    if ids is not None and (ids.dtype not in INTEGERS or tuple(ids.shape) != (count,)):
        raise ValueError(f"{name} must be int64 ({count},); got {ids.dtype} {tuple(ids.shape)}")
