"""Caption metrics: what counts as equal, chrF as sacrebleu has it, and intervals that can be repeated."""

import numpy as np
import pytest

from mm.evaluation.captions import bootstrap_interval, chrf, exact_match
from mm.evaluation.scores import mean_score, normalize_caption


def test_case_and_white_space_do_not_count():
    assert normalize_caption("  Red \n Apple ") == "red apple"
    assert exact_match(["Red apple ", "red  apple"], ["red apple", "RED APPLE"]).per_item.tolist() == [1.0, 1.0]


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
    assert exact_match([ours, truth], [truth, ours]).per_item.tolist() == [1.0, 1.0]
    assert chrf([ours], [truth]).value == pytest.approx(100)
    assert exact_match(["cafe"], ["caf\u00e9"]).value == 0.0  # another word


def test_a_part_of_the_caption_or_other_punctuation_is_no_match():
    assert exact_match(["apple", "red apple."], ["red apple", "red apple"]).per_item.tolist() == [0.0, 0.0]


def test_exact_match_is_the_share_of_matches():
    assert exact_match(["cat", "dog", "bat", "fox"], ["cat", "dog", "rat", "ox"]).value == 0.5


def test_chrf_is_100_for_equal_captions_and_0_for_nothing_in_common():
    assert chrf(["Red apple"], ["red apple"]).value == pytest.approx(100)
    assert chrf(["xyz"], ["red apple"]).value == 0


def test_chrf_is_the_corpus_score_of_sacrebleu():
    import sacrebleu

    predictions, references = ["green apple", "cat", "soccer ball"], ["red apple", "cat face", "ball"]
    assert chrf(predictions, references).value == sacrebleu.corpus_chrf(predictions, [references]).score


@pytest.mark.parametrize("metric", [exact_match, chrf])
def test_metrics_reject_unequal_numbers_none_and_bare_strings(metric):
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 predictions for 0 references"):
        metric([], [])
    with pytest.raises(TypeError, match="predictions is one string"):
        metric("ab", ["a", "b"])


OURS = ["a red apple", "two dogs run", "nothing"]
TRUTH = [["an apple", "A red  apple"], ["a dog runs", "two dogs run on grass", "dogs"], ["a boat"]]


def test_one_equal_reference_is_enough():
    assert exact_match(OURS, TRUTH).per_item.tolist() == [1.0, 0.0, 0.0]


def test_chrf_is_that_of_sacrebleu_with_several_references():
    import sacrebleu

    padded = [[truth[min(place, len(truth) - 1)].lower() for truth in TRUTH] for place in range(3)]
    padded[1][0] = "a red apple"
    assert chrf(OURS, TRUTH).value == pytest.approx(sacrebleu.corpus_chrf(OURS, padded).score)


def test_another_caption_never_makes_it_worse():
    more = [[*truth, "a boat on the sea"] for truth in TRUTH]
    for metric in (exact_match, chrf):
        assert np.all(metric(OURS, more).per_item >= metric(OURS, TRUTH).per_item)
        assert metric(OURS, more).value >= metric(OURS, TRUTH).value


@pytest.mark.parametrize("metric", [exact_match, chrf])
def test_pictures_without_captions_and_what_is_no_string_raise(metric):
    with pytest.raises(ValueError, match=r"references\[0\] is empty"):
        metric(["a"], [[]])
    with pytest.raises(TypeError, match=r"references\[1\] holds a NoneType"):
        metric(["a", "b"], ["a", [None]])
    with pytest.raises(TypeError, match=r"predictions\[0\] is a list"):
        metric([["a"]], ["a"])


def test_a_score_has_its_interval_and_leaves_unknown_items_out():
    score = mean_score("hits", [1.0, float("nan"), 0.0, 1.0])
    assert score.value == float(score) == pytest.approx(2 / 3)
    value, low, high = score.interval()
    assert low <= value == pytest.approx(2 / 3) and high == 1.0
    assert score.interval(["one", "one", "two", "two"], seed=1) == score.interval("aabb", seed=1)


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
