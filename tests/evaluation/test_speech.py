"""Word and character error rates: those of jiwer, with one number for each transcript."""

import jiwer
import numpy as np
import pytest

from mm.evaluation.speech import cer, wer

TOLD, TRUTH = ["the cat sat", "a b c d", "x"], ["the cat sat down", "a x c", "x"]


def test_rates_are_jiwers():
    assert wer(TOLD, TRUTH).value == pytest.approx(jiwer.wer(TRUTH, TOLD)) == pytest.approx(3 / 8)
    assert cer(TOLD, TRUTH).value == pytest.approx(jiwer.cer(TRUTH, TOLD))
    alone = [jiwer.wer(truth, told) for told, truth in zip(TOLD, TRUTH, strict=True)]
    assert wer(TOLD, TRUTH).per_item == pytest.approx(alone)
    assert wer(TOLD, TRUTH).details == {"words": 8, "substituted": 1, "deleted": 1, "inserted": 1}


def test_any_white_space_parts_words_and_letters_have_one_form():
    assert wer(["The\u00a0cat\u3000sat", "cafe\u0301"], ["the cat sat", "caf\u00e9"]).value == 0
    assert wer(["The cat."], ["the cat"]).value == 0.5
    assert wer(["The cat."], ["the cat"], normalize=lambda text: text.replace(".", "")).value == 0


def test_chinese_by_character():
    assert wer(["一只狗"], ["一只猫"]).value == 1
    assert wer(["一只狗"], ["一只猫"], tokenizer="characters").value == pytest.approx(1 / 3)


def test_the_nearest_of_several_references_counts():
    assert wer(["a b"], [["x y z", "a b c", "b"]]).per_item[0] == pytest.approx(1 / 3)


def test_an_empty_reference_has_no_rate_of_its_own_but_its_words_are_errors():
    score = wer(["b", "a"], ["", "a"])
    assert score.value == 1 and np.isnan(score.per_item[0]) and score.per_item[1] == 0
    assert np.isnan(wer([""], [""]).value)  # jiwer: 0, and 1 for any word
