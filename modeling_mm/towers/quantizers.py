"""Quantizers of MMImageTokenizer: encoded positions to codes of a finite set, each with an id, and back.

Shapes: n positions in any arrangement, d numbers of a code, K codes.
"""

import math

import torch
import torch.nn.functional as F
from torch import distributed, nn
from transformers import initialization as init

from ...configuration.image_tokenizer import MMImageTokenizerConfig


class MovingNorm(nn.Module):
    """Each number of a code minus its mean, by its deviation: those of the batch in training, moving averages later.

    Without it the numbers drift to where tanh is flat, and FSQ uses few of its codes.
    """

    mean: torch.Tensor
    var: torch.Tensor

    def __init__(self, size: int, momentum: float = 0.05, eps: float = 1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))

    def restore(self) -> None:
        """The identity, except for eps; what a checkpoint filled stays."""
        init.zeros_(self.mean)
        init.ones_(self.var)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d) -> the same, about -2..2."""
        mean, var = self.mean, self.var
        if self.training:
            flat = x.flatten(0, -2)
            mean, var = flat.mean(0), flat.var(0, correction=0)
            self.mean.lerp_(mean.detach().to(self.mean.dtype), self.momentum)
            self.var.lerp_(var.detach().to(self.var.dtype), self.momentum)
        return (x - mean) * torch.rsqrt(var.to(x.dtype) + self.eps)


class FiniteScalars(nn.Module):
    """FSQ: each number of a code is bounded, then rounded to a level; an id has the levels' numbers as digits.

    With L levels, h = (L - 1) / 2 (a little less, so that nothing rounds beyond the last level) and the offset
    o = 1/2 for an even L, 0 for an odd one:

        bounded = h tanh(x + artanh(o / h)) - o        0 stays 0
        q = round(bounded)                             -(L // 2) .. (L - 1) // 2
        code = q / (L // 2)                            -1 .. 1

    The first number is the lowest digit. Gradients pass the rounding unchanged.

    Source: Mentzer et al. 2023 (arXiv:2309.15505).
    """

    levels: torch.Tensor
    place: torch.Tensor

    def __init__(self, config: MMImageTokenizerConfig):
        super().__init__()
        levels = list(config.levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("place", _places(levels), persistent=False)
        self.wanted = levels

    def restore(self) -> None:
        """Buffers that no checkpoint has, after a construction on the meta device."""
        init.copy_(self.levels, torch.tensor(self.wanted))
        init.copy_(self.place, _places(self.wanted))

    def bound(self, x: torch.Tensor) -> torch.Tensor:
        """(..., d), any number -> between the levels of its place."""
        half = (self.levels - 1) * (1 - 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(x + torch.atanh(offset / half)) * half - offset

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(..., d) -> codes (..., d), ids (...), and 0: nothing has to come near a code by a loss."""
        bounded = self.bound(x)
        rounded = bounded + (bounded.round() - bounded).detach()
        ids = ((rounded.detach().round().long() + self.levels // 2) * self.place).sum(-1)
        return rounded / (self.levels // 2), ids, x.new_zeros(())

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (...) -> codes (..., d), fp32."""
        half = self.levels // 2
        return (ids[..., None] // self.place % self.levels - half) / half


def _places(levels: list[int]) -> torch.Tensor:
    """What a digit counts: 1, L1, L1 L2, ..."""
    return torch.tensor([math.prod(levels[:number]) for number in range(len(levels))])


class CodebookVectors(nn.Module):
    """VQ: the nearest of K vectors, which are moving averages of the positions that they stood for.

    In a training step with counts c_k and sums s_k of the positions nearest to vector k, and decay g:

        C_k = g C_k + (1 - g) c_k       S_k = g S_k + (1 - g) s_k       vector_k = S_k / C_k

    Averages are over all processes. A vector with C_k below `restart_below` starts again as a position of the batch.
    The loss is the mean squared distance of positions to their vectors; the vectors themselves get no gradient.

    Sources: van den Oord et al. 2017 (arXiv:1711.00937), appendix A.1; restarts: Dhariwal et al. 2020
    (arXiv:2005.00341), section 3.1.
    """

    vectors: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor

    def __init__(self, config: MMImageTokenizerConfig):
        super().__init__()
        self.decay, self.restart_below = config.ema_decay, config.restart_below
        self.std = config.initializer_range
        size = config.num_codes, config.code_size
        self.register_buffer("vectors", torch.zeros(size))
        self.register_buffer("counts", torch.zeros(size[0]))
        self.register_buffer("sums", torch.zeros(size))

    def restore(self) -> None:
        """Random vectors, each as if it had stood for one position; what a checkpoint filled stays."""
        init.normal_(self.vectors, std=self.std)
        init.ones_(self.counts)
        init.copy_(self.sums, self.vectors)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(..., d) -> codes (..., d), ids (...), the mean squared distance. In training the vectors then move."""
        flat, vectors = x.detach().flatten(0, -2), self.vectors.to(x.dtype)
        ids = nearest_vectors(flat, vectors)
        codes = vectors[ids].view_as(x)
        distance = F.mse_loss(x, codes)
        if self.training:
            self._move(flat.to(self.vectors.dtype), ids)
        return x + (codes - x).detach(), ids.view(x.shape[:-1]), distance

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (...) -> codes (..., d)."""
        return self.vectors[ids]

    @torch.no_grad()
    def _move(self, x: torch.Tensor, ids: torch.Tensor) -> None:
        """x (n, d), ids (n,): one step of the moving averages."""
        counts = torch.bincount(ids, minlength=len(self.counts)).to(x.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, ids, x)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(counts)
            distributed.all_reduce(sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self.vectors.copy_(self.sums / self.counts.clamp(min=1e-5)[:, None])
        dead = (self.counts < self.restart_below).nonzero()[:, 0]
        if len(dead):
            self._restart(dead, x)

    def _restart(self, dead: torch.Tensor, x: torch.Tensor) -> None:
        """Vectors `dead` become random positions of the batch, those of the first process everywhere."""
        fresh = x[torch.randint(len(x), (len(dead),), device=x.device)]
        if distributed.is_available() and distributed.is_initialized():
            distributed.broadcast(fresh, 0)
        self.vectors[dead] = self.sums[dead] = fresh
        self.counts[dead] = 1.0


def nearest_vectors(x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """(n, d), (K, d) -> ids (n,): the vector at the least distance, the first of several."""
    # |x - v|^2 without |x|^2, which is the same for every v
    return (vectors.square().sum(-1) - 2 * x @ vectors.T).argmin(-1)


QUANTIZERS = {"fsq": FiniteScalars, "vq": CodebookVectors}
