"""How much each token was read from each context token, by attention.

R rows, T tokens, S context tokens, H heads, L layers that read the context. `chosen` is a function that takes the
layers and heads that were asked for: L x (R, H, T, S) -> the same, fewer.

attention   mean over layers and heads of the weights of the query that wrote the token
rollout     the same, followed through the residual stream and through earlier tokens (Abnar and Zuidema 2020,
            arXiv:2005.00928), with half of each step kept
grad        weights times the gradient of the word's log-probability, where positive (Chefer, Gur and Wolf 2021,
            arXiv:2103.15679; for cross-attention as in LAVIS)
"""

from collections.abc import Callable
from typing import Any

import torch

from .reading import Reading

Weights = list[torch.Tensor]
Chosen = Callable[[Weights], Weights]


def by_attention(reading: Reading, chosen: Chosen) -> torch.Tensor:
    """(R, T, S), each row adding up to 1 over the context, under "merged" to less: text is read with it."""
    return _mean(chosen(reading.crossed))


def by_rollout(reading: Reading, chosen: Chosen, sublayers: list[str]) -> torch.Tensor:
    """(R, T, S), each row adding up to 1.

    Args:
        sublayers: those of the stack in their order, "self" and "cross"; without any "cross" self-attention reads the
            context before the text.
    """
    crossed, own = iter(_heads(one) for one in chosen(reading.crossed)), iter(_heads(one) for one in reading.own)
    flow: Any = torch.zeros_like(_heads(reading.crossed[0]))
    for sublayer in sublayers:
        read = next(own) @ flow if sublayer == "self" else next(crossed)
        if "cross" not in sublayers:
            read = read + next(crossed)
        flow = 0.5 * flow + 0.5 * read
    return flow / flow.sum(-1, keepdim=True).clamp(min=1e-9)


def by_gradient(reading: Reading, chosen: Chosen, columns: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """(W, R, S), of the n-th word of every row.

    Args:
        columns: of each word bool (R, T), the queries that wrote it, and the same as floats that are summed.
    """
    crossed = chosen(reading.crossed)
    found = []
    for number, (queries, weight) in enumerate(columns):
        score = (reading.log_probs * weight).sum()
        keep = number < len(columns) - 1
        gradients = torch.autograd.grad(score, crossed, retain_graph=keep, allow_unused=True)
        parts = [
            (one.detach() * grad).clamp(min=0) if grad is not None else torch.zeros_like(one)
            for one, grad in zip(crossed, gradients, strict=True)
        ]
        found.append((_mean(parts) * queries[..., None]).sum(1))
    return torch.stack(found)


def _heads(weights: torch.Tensor) -> torch.Tensor:
    return weights.float().mean(1)


def _mean(weights: Weights) -> torch.Tensor:
    return torch.stack([_heads(one) for one in weights]).mean(0)


def choose(layers: Any, heads: Any, count: int) -> tuple[Chosen, list[int] | None, list[int] | None]:
    """Takes layers and heads by their numbers (negative: from the end); None: all.

    Raises: ValueError for numbers that do not exist.
    """
    wanted = None if layers is None else _numbers("layers", layers, count)

    def chosen(weights: Weights) -> Weights:
        picked = weights if wanted is None else [weights[number] for number in wanted]
        if heads is None:
            return picked
        return [one[:, _numbers("heads", heads, one.shape[1])] for one in picked]

    return chosen, wanted, None if heads is None else [heads] if isinstance(heads, int) else list(heads)


def _numbers(name: str, given: Any, count: int) -> list[int]:
    given = [given] if isinstance(given, int) else list(given)
    if not given or any(
        isinstance(one, bool) or not isinstance(one, int) or not -count <= one < count for one in given
    ):
        raise ValueError(f"{name}={given} must be numbers in {-count}..{count - 1}, of those that read the context")
    return [one % count for one in given]
