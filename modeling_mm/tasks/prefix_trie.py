"""The prefix trie of a list of answers, level by level: what answers begin with alike is read once.

g answers of Ta tokens; n different beginnings of one length; a answers that are longer than it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch


class TrieLevel(NamedTuple):
    """The n beginnings of one length. parents: int64 (n,), their numbers on the level before; tokens: int64 (n,),
    their last tokens; longer: bool (g,), which answers continue after them; nodes: int64 (a,), the beginning of
    each."""

    parents: torch.Tensor
    tokens: torch.Tensor
    longer: torch.Tensor
    nodes: torch.Tensor


def trie_levels(answers: torch.Tensor, lengths: torch.Tensor) -> Iterator[TrieLevel]:
    """Of ids (g, Ta) with int64 (g,) real tokens first; the last one is predicted, never read, so it is no level."""
    nodes = torch.zeros_like(lengths)
    for depth in range(int(lengths.max()) - 1):
        longer = lengths > depth + 1
        beginnings = torch.stack([nodes[longer], answers[longer, depth]], 1)
        unique, inverse = beginnings.unique(dim=0, return_inverse=True)
        nodes[longer] = inverse
        yield TrieLevel(unique[:, 0], unique[:, 1], longer, inverse)


def alphabetical(answers: torch.Tensor) -> torch.Tensor:
    """int64 (g,), the numbers of ids (g, Ta) in an order that brings equal beginnings together."""
    rows = answers.tolist()
    return torch.tensor(sorted(range(len(rows)), key=rows.__getitem__), device=answers.device)
