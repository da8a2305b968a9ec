"""Perplexity is exp of the mean loss over tokens."""

import math

import numpy as np
import pytest

from mm.evaluation.perplexity import perplexity


def test_a_model_that_guesses_among_k_words_has_perplexity_k():
    score = perplexity([[-math.log(7)] * 3, np.full(5, -math.log(7)), []])
    assert score.value == pytest.approx(7) and score.per_item == pytest.approx([7, 7, math.nan], nan_ok=True)
    assert score.details == {"tokens": 8} and not score.higher_is_better


def test_long_texts_weigh_more():
    score = perplexity([[-1.0], [0.0] * 3])
    assert score.value == pytest.approx(math.exp(1 / 4)) and score.per_item.tolist() == pytest.approx([math.e, 1])


@pytest.mark.parametrize("given", [[[0.5]], [[float("nan")]], [[[-1.0]]]])
def test_what_is_no_logarithm_of_a_probability_is_refused(given):
    with pytest.raises(ValueError, match="logarithms of probabilities"):
        perplexity(given)


def test_no_token_is_refused():
    with pytest.raises(ValueError, match="2 texts without a token"):
        perplexity([[], []])
