"""Caption metrics: what counts as equal, chrF as sacrebleu has it, and intervals that can be repeated."""

import numpy as np
import pytest

from mm.evaluation.captions import bootstrap_interval, chrf, exact_match, exact_matches, normalize_caption


def test_case_and_white_space_do_not_count():
    assert normalize_caption("  Red \n Apple ") == "red apple"
    assert exact_matches(["Red apple ", "red  apple"], ["red apple", "RED APPLE"]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("ours", "truth"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("CAFE\u0301", "caf\u00e9"),
        ("\ud55c", "\u1112\u1161\u11ab"),  # Korean
        ("\u212bngstr\u00f6m", "a\u030angstro\u0308m"),  # the sign of the unit
        ("\u0130stanbul", "I\u0307stanbul"),
    ],
)
def test_letters_are_compared_however_they_were_typed(ours, truth):
    assert exact_matches([ours, truth], [truth, ours]).tolist() == [1.0, 1.0]
    assert chrf([ours], [truth]) == pytest.approx(100)
    assert exact_match(["cafe"], ["caf\u00e9"]) == 0.0  # another word


def test_a_part_of_the_caption_or_other_punctuation_is_no_match():
    assert exact_matches(["apple", "red apple."], ["red apple", "red apple"]).tolist() == [0.0, 0.0]


def test_exact_match_is_the_share_of_matches():
    assert exact_match(["cat", "dog", "bat", "fox"], ["cat", "dog", "rat", "ox"]) == 0.5


def test_chrf_is_100_for_equal_captions_and_0_for_nothing_in_common():
    assert chrf(["Red apple"], ["red apple"]) == pytest.approx(100)
    assert chrf(["xyz"], ["red apple"]) == 0


def test_chrf_is_the_corpus_score_of_sacrebleu():
    import sacrebleu

    predictions, references = ["green apple", "cat", "soccer ball"], ["red apple", "cat face", "ball"]
    assert chrf(predictions, references) == sacrebleu.corpus_chrf(predictions, [references]).score


@pytest.mark.parametrize("metric", [exact_matches, exact_match, chrf])
def test_metrics_reject_unequal_numbers_none_and_bare_strings(metric):
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 predictions for 0 references"):
        metric([], [])
    with pytest.raises(TypeError, match="predictions is one string"):
        metric("ab", ["a", "b"])


def test_the_interval_is_the_same_for_the_same_seed_and_holds_the_mean():
    scores = np.random.default_rng(3).random(200) < 0.6
    low, high = bootstrap_interval(scores, seed=1)
    assert (low, high) == bootstrap_interval(scores, seed=1) != bootstrap_interval(scores, seed=2)
    assert low < scores.mean() < high


def test_the_interval_has_the_width_of_the_binomial():
    scores = np.arange(1300) < 650
    low, high = bootstrap_interval(scores)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 1300), rel=0.1)


def test_the_interval_of_equal_scores_is_a_point_and_grows_with_confidence():
    assert bootstrap_interval([0.25] * 5) == (0.25, 0.25)
    scores = np.arange(100) / 100
    narrow, wide = bootstrap_interval(scores, confidence=0.5), bootstrap_interval(scores, confidence=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("scores", [[], [[0.0, 1.0]], [0.0, float("nan")], 1.0])
def test_the_interval_rejects_what_is_not_a_row_of_numbers(scores):
    with pytest.raises(ValueError, match="scores has shape"):
        bootstrap_interval(scores)


def test_the_interval_rejects_impossible_settings():
    with pytest.raises(ValueError, match="confidence=1.5"):
        bootstrap_interval([0.0, 1.0], confidence=1.5)
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap_interval([0.0, 1.0], resamples=0)
