"""How much each token was read from each context token, by attention.

R rows, T tokens, S context tokens, H heads, L layers that read the context. `chosen` is a function that takes the
layers and heads that were asked for: L x (n, H, ...) -> the same, fewer.

attention   mean over layers and heads of the weights of the query that wrote the token
rollout     the same, followed through the residual stream and through earlier tokens (Abnar and Zuidema 2020,
            arXiv:2005.00928), with half of each step kept
grad        weights times the gradient of the word's log-probability, where positive (Chefer, Gur and Wolf 2021,
            arXiv:2103.15679; for cross-attention as in LAVIS)

Where a text encoder stands between the media and the text, attention and rollout go on from its states to what these
read, and grad takes its weights.
"""

from collections.abc import Callable
from typing import Any

import torch

from .reading import Reading
from .stacks import Stack, followed

Weights = list[torch.Tensor]
Chosen = Callable[[Weights], Weights]


def by_attention(reading: Reading, chosen: Chosen) -> torch.Tensor:
    """(R, T, S), each row adding up to 1 over the context, under "merged" to less: text is read with it."""
    if reading.encoder is None:
        return _mean(chosen(reading.text.crossed))
    inner = _mean(chosen(reading.encoder.crossed))[reading.contexts]
    return followed(_mean(reading.text.crossed), reading.text.sources[reading.contexts], inner)


def by_rollout(reading: Reading, chosen: Chosen, sublayers: list[str], of_encoder: list[str]) -> torch.Tensor:
    """(R, T, S), each row adding up to 1.

    Args:
        sublayers: those of the text's stack in their order, "self" and "cross"; of_encoder: of the text encoder's.
        chosen: takes heads only.
    """
    flow = _rolled(reading.text, chosen, sublayers)
    if reading.encoder is None:
        return flow
    inner = _rolled(reading.encoder, chosen, of_encoder)[reading.contexts]
    flow = followed(flow, reading.text.sources[reading.contexts], inner)
    return flow / flow.sum(-1, keepdim=True).clamp(min=1e-9)


def _rolled(stack: Stack, chosen: Chosen, sublayers: list[str]) -> torch.Tensor:
    """Through one stack. Without any "cross" self-attention reads the sources before the text."""
    read = stack.crossed
    crossed, own = iter(_heads(one) for one in chosen(read)), iter(_heads(one) for one in stack.own)
    flow: Any = torch.zeros_like(_heads(read[0]))
    for sublayer in sublayers:
        step = next(own) @ flow if sublayer == "self" else next(crossed)
        if "cross" not in sublayers:
            step = step + next(crossed)
        flow = 0.5 * flow + 0.5 * step
    return flow / flow.sum(-1, keepdim=True).clamp(min=1e-9)


def by_gradient(reading: Reading, chosen: Chosen, columns: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """(W, R, S), of the n-th word of every row. Each row has a context of its own.

    Args:
        columns: of each word (R, T), what each query counts as, and the same without a mean.
    """
    found = []
    for number, (queries, weight) in enumerate(columns):
        scores = (reading.log_probs * weight).sum(1)
        told = of_gradient(scores, reading.of_media, chosen, keep=number < len(columns) - 1)
        # A text encoder is read whole by every word: its tokens are summed.
        found.append(told.sum(1) if reading.encoder is not None else (told * queries[..., None]).sum(1))
    return torch.stack(found)


def of_gradient(scores: torch.Tensor, stack: Stack, chosen: Chosen, keep: bool = False) -> torch.Tensor:
    """(R, T, S): weights times the gradient of each row's score, where positive; the mean over layers and heads."""
    weights = chosen(stack.weights)
    gradients = torch.autograd.grad(scores.sum(), weights, retain_graph=keep, allow_unused=True)
    return _mean(
        [
            stack.cut((one.detach() * grad).clamp(min=0) if grad is not None else torch.zeros_like(one))
            for one, grad in zip(weights, gradients, strict=True)
        ]
    )


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
