"""Momentum encoder, queues of what it saw, contrast with both (MoCo: arXiv:1911.05722; ALBEF: 2107.07651).

    teacher <- m teacher + (1 - m) student                    before every step
    keys     = teacher's embeddings of the batch, then those of earlier batches
    targets  = a softmax(s teacher_i . keys) + (1 - a) q_i     q: spread evenly over the positives
    loss_i   = -sum_j targets_ij log softmax_j(s student_i . keys_j)

B pictures, R texts, N and M of all processes, P width, K size of a queue.
"""

import copy

import torch
from torch import nn

from .contrastive import even_shares, mean_of_directions, similarities, soft_nll
from .positive_pairs import Pairs


def momentum_copy(module: nn.Module) -> nn.Module:
    """A frozen copy in evaluation mode. Keep it in fp32: in bf16 a step of 1 - m is lost."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def momentum_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- m teacher + (1 - m) student, in place; buffers are copied.

    Raises: ValueError if momentum is outside 0..1, or the two have other parameters or buffers.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in 0..1; got {momentum}")
    ours, theirs = ({**dict(x.named_parameters()), **dict(x.named_buffers())} for x in (teacher, student))
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(f"teacher and student must have the same parameters and buffers; only one has {odd[:3]}")
    buffers = {name for name, _ in teacher.named_buffers()}
    for name, old in ours.items():
        new = theirs[name].to(old)
        if name in buffers:
            old.copy_(new)
        else:
            old.lerp_(new, 1 - momentum)


class EmbeddingQueue(nn.Module):
    """The last K embeddings that were pushed, with the number of the picture that each belongs to.

    Buffers: embeds (K, P) fp32, numbers int64 (K,), -1 for unknown, pushed int64 (), all saved with the model.
    """

    def __init__(self, size: int, width: int):
        super().__init__()
        self.embeds: torch.Tensor
        self.numbers: torch.Tensor
        self.pushed: torch.Tensor
        if size < 1:
            raise ValueError(f"a queue must hold 1 or more; got {size}")
        self.register_buffer("embeds", torch.zeros(size, width))
        self.register_buffer("numbers", torch.full((size,), -1))
        self.register_buffer("pushed", torch.tensor(0))

    @torch.no_grad()
    def forget(self) -> None:
        """Empty, as at first."""
        self.embeds.zero_()
        self.numbers.fill_(-1)
        self.pushed.zero_()

    @property
    def filled(self) -> torch.Tensor:
        """bool (K,)."""
        return torch.arange(len(self.embeds), device=self.embeds.device) < self.pushed

    @torch.no_grad()
    def push(self, embeds: torch.Tensor, numbers: torch.Tensor | None = None) -> None:
        """Rows (n, P) take the places of the oldest; of more than K rows the last K stay."""
        size = len(self.embeds)
        places = (self.pushed + torch.arange(len(embeds), device=self.embeds.device))[-size:] % size
        self.embeds[places] = embeds[-size:].to(self.embeds)
        self.numbers[places] = -1 if numbers is None else numbers[-size:]
        self.pushed += len(embeds)


class MomentumContrast(nn.Module):
    """The contrastive loss against the teacher's embeddings of this batch and of the last K pictures and texts.

    Positives of earlier batches are known where `pairs` was given image_ids.
    """

    def __init__(self, queue_size: int, width: int):
        super().__init__()
        self.images, self.texts = EmbeddingQueue(queue_size, width), EmbeddingQueue(queue_size, width)

    def forward(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        image_keys: torch.Tensor,
        text_keys: torch.Tensor,
        pairs: Pairs,
        scale: torch.Tensor | float,
        alpha: float = 0.0,
    ) -> torch.Tensor:
        """The mean of both directions; then, in training with gradients, the batch is pushed into the queues.

        Args:
            image_embeds, text_embeds: (B, P), (R, P), the student's, normalised, of this process.
            image_keys, text_keys: the same of the teacher; no gradient goes there.
            pairs: what belongs together. All processes' keys are gathered, the queues are the same everywhere.
            scale: s.
            alpha: the share of the teacher's own similarities in the targets.
        """
        image_keys, text_keys = image_keys.detach(), text_keys.detach()
        all_images = pairs.gathered(image_keys, pairs.image_sizes)
        all_texts = pairs.gathered(text_keys, pairs.text_sizes)
        image_numbers, text_numbers = pairs.image_numbers, pairs.text_numbers
        if not pairs.has_image_ids:  # numbers of only this batch
            image_numbers, text_numbers = torch.full_like(image_numbers, -1), torch.full_like(text_numbers, -1)
        to_texts = _Keys(all_texts, self.texts, pairs.positives(images=pairs.images), image_numbers[pairs.images])
        to_images = _Keys(all_images, self.images, pairs.positives(texts=pairs.texts).T, text_numbers[pairs.texts])
        of_images = to_texts.loss(image_embeds, image_keys, scale, alpha)
        of_texts = to_images.loss(text_embeds, text_keys, scale, alpha)
        if self.training and torch.is_grad_enabled():
            self.images.push(all_images, image_numbers)
            self.texts.push(all_texts, text_numbers)
        return mean_of_directions(of_images, of_texts, pairs)


class _Keys:
    """What queries (n, P) are compared with: the keys of all processes and the queue; and what is positive there.

    Args:
        batch: (m, P), the teacher's.
        positives: bool (n, m). A query without a positive in the batch has no loss.
        numbers: int64 (n,), of the picture of each query, -1 for unknown.
    """

    def __init__(self, batch: torch.Tensor, queue: EmbeddingQueue, positives: torch.Tensor, numbers: torch.Tensor):
        self.embeds = torch.cat([batch, queue.embeds.to(batch)])
        self.empty = torch.cat([torch.zeros_like(queue.filled[:1]).expand(len(batch)), ~queue.filled])
        self.counted = positives.any(1, keepdim=True)
        earlier = (numbers[:, None] == queue.numbers) & queue.filled & (queue.numbers != -1) & self.counted
        self.positives = torch.cat([positives, earlier], 1)

    def loss(self, student, teacher, scale: torch.Tensor | float, alpha: float) -> torch.Tensor:
        """Sum over the queries of student and teacher (n, P)."""
        with torch.no_grad():
            soft = self._logits(teacher, scale).softmax(1) * self.counted
            shares = alpha * soft + (1 - alpha) * even_shares(self.positives, soft.dtype)
        return soft_nll(self._logits(student, scale), shares)

    def _logits(self, queries: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
        return similarities(queries, self.embeds, scale).masked_fill(self.empty, -torch.inf)
