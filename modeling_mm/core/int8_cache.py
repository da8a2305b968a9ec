"""Int8Context: the keys and values of contexts in a quarter of the memory of float32, half of bfloat16.

B contexts, Hkv key heads, S context tokens, D head width. Each vector of D numbers is rounded to 255 steps between
minus and plus its largest one, so a number is off by at most 1/254 of that.

    cache = MMCache(DynamicCache(config=model.config.text_config), Int8Context())
    model.generate(**inputs, past_key_values=cache)
"""

# The states of a layer are read only after they are written.

from typing import NamedTuple

import torch
from transformers.cache_utils import Cache, DynamicLayer


class Rounded(NamedTuple):
    """numbers int8 (B, Hkv, S, D), step (B, Hkv, S, 1) of the states' own dtype."""

    numbers: torch.Tensor
    step: torch.Tensor

    def states(self) -> torch.Tensor:
        return self.numbers.to(self.step.dtype) * self.step


def rounded(states: torch.Tensor) -> Rounded:
    """The nearest of 255 steps for each number; exact zeros stay so."""
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    step = (wide.abs().amax(dim=-1, keepdim=True) / 127).to(states.dtype)
    numbers = torch.where(step > 0, wide / step, 0.0).round().clamp(-127, 127)
    return Rounded(numbers.to(torch.int8), step)


class Int8Layer(DynamicLayer):
    """A cache layer that quantizes keys and values when writing and dequantizes them when reading."""

    _keys: Rounded | None = None
    _values: Rounded | None = None

    @property
    def keys(self) -> torch.Tensor | None:
        return None if self._keys is None else self._keys.states()

    @keys.setter
    def keys(self, states: torch.Tensor | None) -> None:
        self._keys = None if states is None else rounded(states)

    @property
    def values(self) -> torch.Tensor | None:
        return None if self._values is None else self._values.states()

    @values.setter
    def values(self, states: torch.Tensor | None) -> None:
        self._values = None if states is None else rounded(states)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """The context comes whole, and once."""
        self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return 0 if self._keys is None else self._keys.numbers.shape[-2]

    def num_bytes(self) -> int:
        """Of what is held."""
        held = [tensor for states in (self._keys, self._values) if states is not None for tensor in states]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


class Int8Context(Cache):
    """The cross-attention half of an MMCache, in int8."""

    def __init__(self):
        super().__init__(layer_class_to_replicate=Int8Layer)
