"""Perplexity: how many tokens a model wavers between at each step, exp of its mean loss over tokens."""

from collections.abc import Sequence

import numpy as np

from .scores import Score, sum_score


def perplexity(log_probabilities: Sequence[Sequence[float] | np.ndarray]) -> Score:
    """exp(-mean of log p) over all tokens of all texts, 1 or more; lower is better.

    Args:
        log_probabilities: for each text the natural logarithms of the probabilities of its tokens, as `score` of
            MMForConditionalGeneration returns, without padding and prompt.

    Returns: `per_item`, of each text, nan for one without tokens; `value`, of all tokens, so that long texts weigh
        more; `details`: tokens. Numbers of models with another tokenizer cannot be compared.

    Raises: ValueError: no text, no token, or what is no logarithm of a probability.
    """
    rows = np.zeros((len(log_probabilities), 2))
    for number, (row, given) in enumerate(zip(rows, log_probabilities, strict=True)):
        values = np.asarray(given, np.float64)
        if values.ndim != 1 or not (values <= 1e-6).all():  # rounding may pass 0 by a little; nan is not <=
            raise ValueError(
                f"log_probabilities[{number}] has shape {values.shape} and the highest value "
                f"{values.max(initial=-np.inf):.4g}; give one row of logarithms of probabilities, which are 0 or less"
            )
        row[:] = -values.sum(), len(values)
    if not rows[:, 1].sum():
        raise ValueError(f"{len(rows)} texts without a token; give at least one token")
    return sum_score(
        "perplexity", rows, _perplexity, best=1.0, higher_is_better=False, details={"tokens": rows[:, 1].sum()}
    )


def _perplexity(sums: np.ndarray) -> np.ndarray:
    loss, tokens = sums[..., 0], sums[..., 1]
    return np.exp(np.divide(loss, tokens, out=np.full(np.shape(tokens), np.nan), where=np.asarray(tokens) > 0))
