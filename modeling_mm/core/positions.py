"""Rotary positions by Transformers' rope parameters, and the fixed sines and cosines of older texts.

R rows, T tokens, D head width, Dr <= D turned dimensions.
"""

import math

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ...configuration.text import ROPE_TYPES, SINUSOID_OFFSET, MMTextConfig
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
