"""Positions of tokens: rotary positions by Transformers' rope parameters, the fixed sines and cosines of older texts,
learned distances, and the segments of long texts.

R rows, T tokens, H heads, D head width, Dr <= D turned dimensions.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.masking_utils import create_causal_mask
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ...configuration.positions import ROPE_TYPES, SINUSOID_OFFSET
from ...configuration.text import MMTextConfig
from .input_checks import may_read_values


class MMRotaryEmbedding(nn.Module):
    """Positions to the cosines and sines of their angles. Source: Su et al. 2021 (arXiv:2104.09864).

    Names and halves are those of Transformers, whose `_init_weights` fills the buffers again after loading. Under
    "dynamic" a row longer than max_position_embeddings rotates more slowly, by its own length, as in Transformers for
    a single row; a batch or its padding changes nothing.
    """

    inv_freq: torch.Tensor
    original_inv_freq: torch.Tensor

    def __init__(self, config: MMTextConfig):
        super().__init__()
        self.config = config
        self.rope_type = (config.rope_parameters or {})["rope_type"]
        if self.rope_type not in ROPE_TYPES:  # set after the config was checked
            raise ValueError(f"rope_type={self.rope_type!r} is not accepted; use one of {', '.join(ROPE_TYPES)}")
        scheme = {**ROPE_INIT_FUNCTIONS, "default": self.compute_default_rope_parameters}
        frequencies, self.attention_scaling = scheme[self.rope_type](config)
        self.register_buffer("inv_freq", frequencies, persistent=False)
        self.register_buffer("original_inv_freq", frequencies.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: MMTextConfig, *args, **kwargs) -> tuple[torch.Tensor, float]:
        """theta ** (-2 i / Dr) for each pair i, and the scale of cosines and sines, 1."""
        parameters = config.rope_parameters or {}
        size = int((config.head_dim or 0) * parameters.get("partial_rotary_factor", 1.0))
        return 1.0 / parameters["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float) / size), 1.0

    def _apply(self, fn, recurse: bool = True):
        """Goes where the model goes and stays fp32: far positions need frequencies that half precision cannot hold."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            there = fn(tensor)
            return there if there.dtype == tensor.dtype else tensor.to(there.device)

        return super()._apply(moved, recurse)

    @torch.no_grad()
    def forward(self, position_ids: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """(R or 1, T) -> cosines and sines (R or 1, 1, T, Dr); angles are computed in fp32 for every dtype."""
        angles = position_ids[:, None, :, None].float() * self._frequencies(position_ids)
        angles = torch.cat([angles, angles], dim=-1)
        return (angles.cos() * self.attention_scaling).to(dtype), (angles.sin() * self.attention_scaling).to(dtype)

    def _frequencies(self, position_ids: torch.Tensor) -> torch.Tensor:
        """(Dr/2,) of every row or, under "dynamic", (R or 1, 1, 1, Dr/2) by the length of each row.

        Source: NTK-aware scaling with a base that grows, theta * (factor * length / trained - factor + 1) ** (Dr /
        (Dr - 2)), as Transformers has it.
        """
        frequencies = self.inv_freq.to(position_ids.device)
        if self.rope_type != "dynamic":
            return frequencies
        parameters, trained = self.config.rope_parameters or {}, self.config.max_position_embeddings
        lengths = (position_ids.amax(-1) + 1).clamp(min=trained)[:, None, None, None].float()
        size, factor = 2 * len(frequencies), parameters["factor"]
        growth = (factor * lengths / trained - factor + 1) ** (size / (size - 2))
        pairs = torch.arange(0, size, 2, device=position_ids.device).float() / size
        return torch.where(lengths > trained, 1.0 / (parameters["rope_theta"] * growth) ** pairs, frequencies)


class MMSinusoids(nn.Module):
    """Fixed vectors of positions: sin(p w_i) of every frequency w_i = 10000 ** (-i / (D/2 - 1)), then the cosines.

    Source: Vaswani et al. 2017 (arXiv:1706.03762) as fairseq has it, whose texts start at p = 2.
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    @torch.no_grad()
    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        """(R or 1, T) -> fp32 (R or 1, T, D)."""
        half = self.width // 2
        numbers = torch.arange(half, device=position_ids.device).float()
        frequencies = torch.exp(numbers * -(math.log(10000) / (half - 1)))
        angles = (position_ids + SINUSOID_OFFSET).float()[..., None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class MMRelativeBias(nn.Embedding):
    """Learned distances between tokens, added to the scores of self-attention: one number per head and bucket of
    distances, the same in all layers.

    Half of the buckets are for keys before the query, half for keys after it. Of each half one half holds one distance
    each; the others grow by a factor up to max_distance, and the last holds all that are farther:

        8 buckets, max_distance 16     distance    0  1  2  3  4  5  6  7 ...  16 ...
                                       before      0  1  2  2  2  2  3  3 ...   3 ...
                                       after       -  5  6  6  6  6  7  7 ...   7 ...

    Source: T5, Raffel et al. 2020 (arXiv:1910.10683).
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


def build_positions(config: MMTextConfig) -> nn.Embedding | MMSinusoids | None:
    """Position embeddings that are added to the tokens' vectors: learned, fixed, or none."""
    if config.position_embedding_type == "sinusoidal":
        return MMSinusoids(config.hidden_size)
    is_learned = config.position_embedding_type == "absolute"
    return nn.Embedding(config.max_position_embeddings, config.hidden_size) if is_learned else None


def stretched(table: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """(R or 1, T) -> (R or 1, T, D): a row longer than the table spreads over it, between two vectors linearly.

    A row that fits gets its own positions exactly, for any other rows in the batch.
    """
    last = len(table) - 1
    longest = position_ids.amax(dim=1, keepdim=True).clamp(min=max(last, 1))
    places = position_ids * (last / longest.to(torch.promote_types(table.dtype, torch.float32)))
    before = places.floor().long()
    share = (places - before)[..., None].to(table.dtype)
    return torch.lerp(table[before], table[(before + 1).clamp(max=last)], share)


def check_growth(config: MMTextConfig, length: torch.Tensor | int, past: torch.Tensor | int = 1) -> None:
    """Raises ValueError where a text with a cache grows longer than "dynamic" angles stay what they are.

    Beyond max_position_embeddings a longer text rotates all of its tokens again, but keys in a cache do not change.

    Args:
        length: of the longest text, or the position_ids of a call.
        past: tokens in the cache; with none in it all are turned in this call.
    """
    if (config.rope_parameters or {}).get("rope_type") != "dynamic":
        return
    if torch.is_tensor(length):
        if not may_read_values() or length.is_meta or not past:
            return
        length = int(length.max()) + 1
    if length > config.max_position_embeddings:
        raise ValueError(
            f"rope_type='dynamic' rotates all tokens again for each token after "
            f"max_position_embeddings={config.max_position_embeddings}, but keys in a cache do not change: a text of "
            f"{length} tokens needs use_cache=False"
        )


def rotate(states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turns the first Dr dimensions of (R, H, T, D), each pair (i, i + Dr/2) by its angle."""
    cosines, sines = rotary
    size = cosines.shape[-1]
    turned, rest = states[..., :size], states[..., size:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cosines + torch.cat([-second, first], dim=-1) * sines
    return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


# ---- long texts in segments -----------------------------------------------------------------------------------------


class MMSegments:
    """The plan that cuts rows into segments, counted over real tokens, so that padding moves no boundary.

    A long text attends within segments, which also see the tokens just before them: Transformer-XL's recurrence (Dai
    et al. 2019, arXiv:1901.02860) with positions that continue from segment to segment. A segment's keys are its own
    tokens and the last M before it, those as the layer's inputs with their gradient stopped. All segments of a layer
    are queries of one call, as what a layer carries over is known when it starts:

        tokens 0 1 2 3 4 5 6, L = 3, M = 2      queries  | 0 1 2 |     | 3 4 5 |     | 6 . . |
                                                keys  . .  0 1 2    1 2  3 4 5    4 5  6 . .

    R rows, T tokens, L tokens per segment, M carried tokens, S segments, H heads, D head width.

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
