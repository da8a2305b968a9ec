"""The fingerprint of a context's inputs: a 128-bit hash.

A cache keeps it, so that generate() raises an error instead of continuing with the keys and values of another picture.
It hashes bits, not numbers: 0.0 and -0.0, two kinds of NaN, a number in float32 and in bfloat16 are different.

n words of 64 bits, in rows of W:

    u = mix(w)                            one to one, and every bit of w moves the low bits of u
    sums of a row = sum u K, sum u L      mod 2^64, K and L random

Rows that differ, by d = u - u', have equal sums by chance only: of 2^64 values of a K, 2^v solve K d = 0, with v the
zeros that d ends in; so 2^(2v - 128) for both sums. Those of all rows, in order, are hashed by BLAKE2b.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from .inputs_outputs import MMContextOutput

ROW = 4096  # words: 32 KiB, which stays in a core's cache
_ODD = (-7046029254386353131, -4658895280553007687)  # 2^64 / phi, and a multiplier of SplitMix64


def fingerprint(inputs: Mapping[str, Any], ready: MMContextOutput | None = None) -> str | None:
    """The names, dtypes, shapes and bits of the tensors of `inputs`, and what else there is; None if there is nothing.

    An input that is None or False is as one that is not given. A context that is `ready` goes before the inputs.
    """
    if ready is not None:
        inputs = {name: getattr(ready, name) for name in ("last_hidden_state", "attention_mask", "packed_offsets")}
    given = {name: value for name, value in sorted(inputs.items()) if value is not None and value is not False}
    if not given:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for name, value in given.items():
        is_tensor = torch.is_tensor(value)
        described = (name, str(value.dtype), tuple(value.shape)) if is_tensor else (name, repr(value))
        digest.update(repr(described).encode())
        if is_tensor:
            digest.update(row_sums(value).cpu().numpy().tobytes())
    return digest.hexdigest()


def row_sums(values: torch.Tensor) -> torch.Tensor:
    """int64 (rows, 2) of a tensor of any shape and dtype: the two sums of each row of words, its last row shorter."""
    octets = values.detach().contiguous().reshape(-1).view(torch.uint8)
    missing = -len(octets) % 8
    if missing or octets.storage_offset() % 8:
        octets = functional.pad(octets, (0, missing)) if missing else octets.clone()
    words, keys = octets.view(torch.int64), _keys(values.device)
    whole = len(words) // ROW * ROW
    parts = [(words[:whole].view(-1, ROW), keys), (words[None, whole:], keys[:, : len(words) - whole])]
    return torch.cat([_sums(*part) for part in parts])


def _sums(words: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(rows, n) with keys (2, n) -> (rows, 2)."""
    mixed = _shifted(words * _ODD[0], 32)
    mixed = _shifted(mixed.mul_(_ODD[1]), 31)
    first = (mixed * keys[0]).sum(1)
    return torch.stack([first, mixed.mul_(keys[1]).sum(1)], dim=1)


def _shifted(words: torch.Tensor, by: int) -> torch.Tensor:
    """w ^ (w >>> by), in place: the upper bits go into the lower ones; torch's own shift repeats the sign."""
    return words.bitwise_xor_((words >> by).bitwise_and_((1 << (64 - by)) - 1))


@cache
def _keys(device: torch.device) -> torch.Tensor:
    """int64 (2, ROW), odd; the same on every machine."""
    drawn = torch.randint(-(2**63), 2**63 - 1, (2, ROW), generator=torch.Generator().manual_seed(0))
    return (drawn | 1).to(device)
