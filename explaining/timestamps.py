"""When was each word said? Dynamic time warping over the weights with which words read the moments of a sound.

T tokens (or words) in their order, S moments in theirs, N maps (layers and heads) of the same tokens.

    z_ts    = (w_ts - mean_t w_ts) / std_t w_ts        a moment that every token reads says nothing of when
    z_ts    = median of z over `median_width` moments around s
    path    the cheapest way through -z, mean of N, from the first token to the last, never back in time

So does Whisper (Radford et al. 2022, arXiv:2212.04356, in its word_timestamps). What stands before the first word and
after the last is cut off with `trim_ends`. NumPy only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_NEXT_TOKEN, _NEXT_MOMENT = 1, 2  # how the path came to a cell; 0: both at once


class WordTime(NamedTuple):
    """A word and when it was said, in seconds from the beginning of the sound."""

    word: str
    start: float
    end: float


def word_timestamps(
    explanation: Any, seconds_per_moment: float, number: int = 0, median_width: int = 7, trim_ends: bool = True
) -> list[WordTime]:
    """When each word of an Explanation was said.

        explained = model.explain(inputs, output, processor=processor)
        mm.word_timestamps(explained[0], seconds_per_moment=0.02)   # [WordTime('good', 0.1, 0.42), ...]

    Args:
        explanation: what `model.explain` returned for one row, of a model that reads sounds.
        seconds_per_moment: the time from one token of the audio tower to the next, for instance 0.02 for Whisper.
        number: which sound of the row's context.
        median_width, trim_ends: as in `token_times`.
    Raises: ValueError if the row read no such sound.
    """
    items = {item.number: item for item in explanation.items if item.kind == "audio"}
    if number not in items:
        raise ValueError(f"the row read no sound {number}; the sounds that it read are {sorted(items) or 'none'}")
    if not explanation.words:
        return []
    times = token_times(items[number].weights, seconds_per_moment, median_width, trim_ends)
    return [WordTime(word, start, end) for word, (start, end) in zip(explanation.words, times.tolist(), strict=True)]


def token_times(
    weights: np.ndarray, seconds_per_moment: float, median_width: int = 7, trim_ends: bool = False
) -> np.ndarray:
    """float64 (T, 2), start and end of each token in seconds. A token ends where the next begins.

    Args:
        weights: (T, S), or (N, T, S) of N layers and heads: how much the query that wrote token t read moment s. Give
            only real moments: what pads a sound would be read as silence.
        median_width: odd; 1: no filter. A shorter sound takes the greatest odd width that fits.
        trim_ends: the first token begins and the last ends where its weight is half of its greatest. False, as in
            Whisper: they begin and end with the sound (there the end-of-text token reads what follows).
    """
    if not np.isfinite(seconds_per_moment) or seconds_per_moment <= 0:
        raise ValueError(f"seconds_per_moment={seconds_per_moment} must be a positive number of seconds")
    maps = _checked(weights, (2, 3), "weights (T, S) or (N, T, S)")
    maps = maps[None] if maps.ndim == 2 else maps
    likeness = median_filtered(standardised(maps), median_width).mean(0)
    tokens, moments = cheapest_path(-likeness)
    starts = moments[np.unique(tokens, return_index=True)[1]]
    ends = np.append(starts[1:], moments[-1] + 1)
    if trim_ends:
        reads = median_filtered(maps.mean(0), median_width)
        first, last = reads[0, : max(ends[0], 1)], reads[-1, starts[-1] :]
        ends[-1] = starts[-1] + np.flatnonzero(last >= last.max() / 2)[-1] + 1
        starts[0] = np.flatnonzero(first >= first.max() / 2)[0]
    return np.stack([starts, ends], 1) * float(seconds_per_moment)


def standardised(weights: np.ndarray) -> np.ndarray:
    """(..., T, S) with mean 0 and standard deviation 1 over the tokens of each moment; of one token over its moments.

    What does not differ is 0.
    """
    values = _checked(weights, (2, 3), "weights (T, S) or (N, T, S)")
    axis = -2 if values.shape[-2] > 1 else -1
    spread = values.std(axis, keepdims=True)
    centred = values - values.mean(axis, keepdims=True)
    return np.where(spread > 1e-12, centred / np.where(spread > 1e-12, spread, 1), 0)


def median_filtered(values: np.ndarray, width: int = 7) -> np.ndarray:
    """The median over `width` moments around each, which are mirrored at both ends."""
    if isinstance(width, bool) or not isinstance(width, int) or width < 1 or width % 2 == 0:
        raise ValueError(f"median_width={width!r} must be an odd integer from 1; 1 filters nothing")
    half = min(width // 2, values.shape[-1] - 1)
    if half <= 0:
        return values
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(half, half)], mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=-1), axis=-1)


def cheapest_path(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dynamic time warping: the tokens and the moments, int64 (P,) each, of the path with the smallest sum of `cost`.

    It goes from the first cell of cost (T, S) to the last. Each step goes to the next token, to the next moment, or to
    both; of equal steps back from the end it takes both first.
    """
    cost = _checked(cost, (2,), "cost (T, S)")
    count, length = cost.shape
    # Cells of one anti-diagonal (t + s = d) do not need each other: total[d + 2, t + 1] is that of cell (t, d - t).
    total = np.full((count + length + 1, count + 1), np.inf)
    total[0, 0] = 0.0
    came = np.zeros((count + length - 1, count), np.int8)
    for diagonal in range(count + length - 1):
        first, last = max(0, diagonal - length + 1), min(count, diagonal + 1)
        before, now = slice(first, last), slice(first + 1, last + 1)
        ways = np.stack([total[diagonal, before], total[diagonal + 1, before], total[diagonal + 1, now]])
        own = np.arange(first, last)
        came[diagonal, before] = ways.argmin(0)
        total[diagonal + 2, now] = cost[own, diagonal - own] + ways.min(0)
    path = [(count - 1, length - 1)]
    while path[-1] != (0, 0):
        token, moment = path[-1]
        way = came[token + moment, token]
        path.append((token - (way != _NEXT_MOMENT), moment - (way != _NEXT_TOKEN)))
    tokens, moments = np.array(path[::-1], np.int64).T
    return tokens, moments


def _checked(given: Any, dimensions: Sequence[int], what: str) -> np.ndarray:
    values = np.asarray(given, np.float64)
    if values.ndim not in dimensions or not values.size or not np.isfinite(values).all():
        raise ValueError(f"give {what} of finite numbers, one token and one moment at least; got shape {values.shape}")
    return values
