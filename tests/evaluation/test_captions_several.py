"""Captions with several references: the nearest one counts, chrF is sacrebleu's."""

import numpy as np
import pytest

from mm.evaluation.captions import best_matches, chrf_of, chrf_statistics

OURS = ["a red apple", "two dogs run", "nothing"]
TRUTH = [["an apple", "A red  apple"], ["a dog runs", "two dogs run on grass", "dogs"], ["a boat"]]


def test_one_equal_reference_is_enough():
    assert best_matches(OURS, TRUTH).tolist() == [1.0, 0.0, 0.0]


def test_chrf_is_that_of_sacrebleu_with_several_references():
    import sacrebleu

    padded = [[truth[min(place, len(truth) - 1)].lower() for truth in TRUTH] for place in range(3)]
    padded[1][0] = "a red apple"
    assert chrf_of(chrf_statistics(OURS, TRUTH).sum(0)) == pytest.approx(sacrebleu.corpus_chrf(OURS, padded).score)


def test_chrf_of_many_sums_is_that_of_each():
    counted = chrf_statistics(OURS, TRUTH)
    assert chrf_of(counted).tolist() == [chrf_of(row) for row in counted]
    assert chrf_of(counted)[0] == pytest.approx(100)


def test_another_caption_never_makes_it_worse():
    more = [[*truth, "a boat on the sea"] for truth in TRUTH]
    assert np.all(best_matches(OURS, more) >= best_matches(OURS, TRUTH))
    assert np.all(chrf_of(chrf_statistics(OURS, more)) >= chrf_of(chrf_statistics(OURS, TRUTH)))


@pytest.mark.parametrize("metric", [best_matches, chrf_statistics])
def test_bare_strings_and_pictures_without_captions_raise(metric):
    with pytest.raises(TypeError, match=r"references\[1\] is one string"):
        metric(["a", "b"], [["a"], "b"])
    with pytest.raises(ValueError, match=r"references\[0\] is empty"):
        metric(["a"], [[]])
    with pytest.raises(ValueError, match="1 predictions for 2"):
        metric(["a"], [["a"], ["b"]])
