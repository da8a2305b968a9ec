"""Learned distances between tokens, added to the scores of self-attention (T5, Raffel et al. 2020, arXiv:1910.10683).

R rows, T text tokens, H heads.
"""

import math
from typing import Any

import torch
from torch import nn

from ...configuration.text import MMTextConfig


class MMRelativeBias(nn.Embedding):
    """One number per head and bucket of distances, the same in all layers.

    Half of the buckets are for keys before the query, half for keys after it. Of each half one half holds one distance
    each; the others grow by a factor up to max_distance, and the last holds all that are farther:

        8 buckets, max_distance 16     distance    0  1  2  3  4  5  6  7 ...  16 ...
                                       before      0  1  2  2  2  2  3  3 ...   3 ...
                                       after       -  5  6  6  6  6  7  7 ...   7 ...
    """

    def __init__(self, config: MMTextConfig):
        super().__init__(config.relative_attention_num_buckets, config.num_attention_heads)
        self.max_distance = config.relative_attention_max_distance

    def forward(self, call: Any, mask: torch.Tensor | None, position_ids: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]: not of ids
        """What is added to the scores, (R or 1, H, T, T), masked entries the dtype's minimum.

        Args:
            call: the CallConfig of this call.
            mask: who sees whom, a plain one: bool or float (R, 1, T, T); None: all see all.
            position_ids: (R or 1, T).
        Raises: ValueError for a causal call.
        """
        if call.is_causal:
            raise ValueError("is_causal=True was given, but position_embedding_type='relative' is of both sides")
        distances = position_ids[:, None, :] - position_ids[:, :, None]  # of keys from queries
        bias = super().forward(self.buckets(distances)).permute(0, 3, 1, 2)
        closed = torch.finfo(bias.dtype).min
        if mask is None:
            return bias
        if mask.dtype == torch.bool:
            return bias.masked_fill(~mask, closed)
        return (bias + mask.to(bias.dtype)).clamp(min=closed)

    def buckets(self, distances: torch.Tensor) -> torch.Tensor:
        """int64, of the shape of distances, in 0..num_buckets - 1."""
        half = self.num_embeddings // 2
        exact, far = half // 2, distances.abs()
        growth = torch.log(far.float().clamp(min=1) / exact) / math.log(self.max_distance / exact)
        grown = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
        return torch.where(far < exact, far, grown) + half * (distances > 0)
