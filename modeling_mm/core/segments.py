"""MMSegments: a long text attends within segments, which also see the tokens just before them.

Transformer-XL's recurrence (Dai et al. 2019, arXiv:1901.02860) with positions that continue from segment to segment: a
segment's keys are its own tokens and the last M before it, those as the layer's inputs with their gradient stopped.
All segments of a layer are queries of one call, as what a layer carries over is known when it starts:

    tokens 0 1 2 3 4 5 6, L = 3, M = 2      queries  | 0 1 2 |     | 3 4 5 |     | 6 . . |
                                            keys  . .  0 1 2    1 2  3 4 5    4 5  6 . .

R rows, T tokens, L tokens per segment, M carried tokens, S segments, H heads, D head width.
"""

from typing import Any

import torch
from torch.nn import functional
from transformers.masking_utils import create_causal_mask


class MMSegments:
    """The plan that cuts rows into segments, counted over real tokens, so that padding moves no boundary.

    Args:
        shape: (R, T).
        segment_length, memory_length: L and M.
        mask: (R, T), 1 = real; None: all real.
    """

    def __init__(self, shape: tuple[int, int], segment_length: int, memory_length: int, mask: torch.Tensor | None):
        if mask is not None and mask.ndim != 2:
            raise ValueError(
                f"attention_mask is a ready mask {tuple(mask.shape)}, but a text longer than "
                f"segment_length={segment_length} attends in segments; pass the mask as (R, T)"
            )
        self.num_rows, self.length = shape
        self.segment_length, self.memory_length = segment_length, memory_length
        self.num_segments = -(-self.length // segment_length)
        self.mask = mask
        self.column: torch.Tensor | None = None  # (R, T), the column of each row's n-th token, padding last
        self.number: torch.Tensor | None = None  # its inverse
        if mask is not None:
            self.column = torch.argsort((~mask.bool()).to(torch.uint8), dim=1, stable=True)
            self.number = torch.argsort(self.column, dim=1)

    def fold(self, states: torch.Tensor) -> torch.Tensor:
        """(R, H, T, D) -> (R*S, H, L, D)."""
        return self._own(self._packed(states)).transpose(1, 2).flatten(0, 1)

    def fold_keys(self, own: tuple[torch.Tensor, ...], carried: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Pairs of (R, H, T, D) -> (R*S, H, M + L, D): the carried tokens, then the segment's own."""
        return tuple(self._with_carried(mine, earlier) for mine, earlier in zip(own, carried, strict=True))

    def unfold(self, states: torch.Tensor) -> torch.Tensor:
        """(R*S, L, ...) -> (R, T, ...)."""
        states = states.reshape(self.num_rows, -1, *states.shape[2:])[:, : self.length]
        if self.number is None:
            return states
        rows = torch.arange(self.num_rows, device=states.device)[:, None]
        return states[rows, self.number]

    def unfold_weights(self, weights: torch.Tensor | None) -> torch.Tensor | None:
        """(R*S, H, L, M + L) -> (R, H, T, M + L); other states are returned unchanged."""
        if weights is None or weights.ndim != 4:
            return weights
        return self.unfold(weights.transpose(1, 2)).transpose(1, 2)

    def key_mask(self, device: torch.device) -> torch.Tensor:
        """bool (R*S, M + L), True for real keys."""
        real = torch.ones(self.num_rows, self.length, device=device) if self.mask is None else self.mask
        real = real[:, None, :, None].float()
        return self._with_carried(real, real)[:, 0, :, 0] > 0

    def self_mask(self, call: Any, states: torch.Tensor):
        """Who sees whom within the segments of `states` (R, T, D), of the kind of the call's implementation."""
        real = self.key_mask(states.device)
        queries = states.new_empty(()).expand(real.shape[0], self.segment_length, 1)
        held: Any = self  # read as a cache is: the carried tokens come before the queries
        return create_causal_mask(config=call, inputs_embeds=queries, attention_mask=real, past_key_values=held)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """As a cache's: the number of keys before the first query, for Transformers' mask functions."""
        return self.memory_length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """As a cache's: how many keys there are, and the number of the first."""
        return self.memory_length + query_length, 0

    def _packed(self, states: torch.Tensor) -> torch.Tensor:
        """(R, H, T, D) -> (R, H, S*L, D), real tokens first, then zeros."""
        if self.column is not None:
            states = states.gather(2, self.column[:, None, :, None].expand_as(states))
        return functional.pad(states, (0, 0, 0, self.num_segments * self.segment_length - self.length))

    def _own(self, packed: torch.Tensor) -> torch.Tensor:
        return packed.unflatten(2, (self.num_segments, self.segment_length))

    def _with_carried(self, own: torch.Tensor, carried: torch.Tensor) -> torch.Tensor:
        states = self._own(self._packed(own))  # (R, H, S, L, D)
        if self.memory_length:
            before = functional.pad(self._packed(carried), (0, 0, self.memory_length, 0))
            before = before.unfold(2, self.memory_length, self.segment_length)[:, :, : self.num_segments]
            states = torch.cat([before.transpose(3, 4), states], dim=3)
        return states.transpose(1, 2).flatten(0, 1)
