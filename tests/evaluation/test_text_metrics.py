"""What holds for every metric of texts: order, copies, worse references, bounds, more of it right."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm.evaluation.bleu import bleu
from mm.evaluation.captions import CAPTION_METRICS, caption_scores, chrf, exact_match
from mm.evaluation.cider import cider, cider_d
from mm.evaluation.meteor import meteor
from mm.evaluation.rouge import rouge_l
from mm.evaluation.speech import cer, wer

WORDS = "a a a man dog dogs runs run on the big red".split()
caption = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
items = st.lists(st.tuples(caption, st.lists(caption, min_size=1, max_size=4)), min_size=2, max_size=6)
METRICS = {
    "exact_match": exact_match, "bleu1": lambda p, r: bleu(p, r, 1), "bleu4": bleu, "rouge_l": rouge_l,
    "meteor": meteor, "meteor15": lambda p, r: meteor(p, r, version="1.5"), "cider_d": cider_d, "cider": cider,
    "chrf": chrf, "wer": wer, "cer": cer,
}  # fmt: skip
NEAREST = ("exact_match", "rouge_l", "meteor", "meteor15", "chrf")
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
few = settings(max_examples=12, deadline=None)


@every_metric
@few
@given(items, st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_count(metric, pairs, random):
    places = list(range(len(pairs)))
    random.shuffle(places)
    told, truth = zip(*pairs, strict=True)
    score, moved = metric(told, truth), metric([told[n] for n in places], [truth[n] for n in places])
    assert moved.value == pytest.approx(score.value, nan_ok=True)
    assert moved.per_item == pytest.approx(score.per_item[places], nan_ok=True)


@every_metric
@few
@given(items)
def test_a_corpus_twice_is_the_corpus_once(metric, pairs):
    told, truth = zip(*pairs, strict=True)
    if metric in (cider, cider_d):  # log 2N of an n-gram that no reference has would grow: see the page
        score, twice = metric(told, truth, corpus=truth), metric(told * 2, truth * 2, corpus=truth)
    elif metric is bleu:  # the smoothed half match of a length that never matches would weigh less
        score, twice = (bleu(told * n, truth * n, smoothing="none") for n in (1, 2))
    else:
        score, twice = metric(told, truth), metric(told * 2, truth * 2)
    assert twice.value == pytest.approx(score.value, nan_ok=True)
    assert twice.per_item == pytest.approx(np.tile(score.per_item, 2), nan_ok=True)


@every_metric
@few
@given(items)
def test_scores_have_bounds_and_nobody_elses_lists_change(metric, pairs):
    told, truth = [p for p, _ in pairs], [r for _, r in pairs]
    kept = copy.deepcopy((told, truth))
    score = metric(told, truth)
    assert (told, truth) == kept
    known = score.per_item[~np.isnan(score.per_item)]
    assert (known >= 0).all() and (not score.higher_is_better or (known <= score.best + 1e-9).all())
    assert np.allclose(score.of(score.statistics.sum(0)), score.value, equal_nan=True)


@every_metric
def test_equal_captions_are_perfect_and_foreign_ones_are_not(metric):
    truth = ["a red dog runs here", "two cats sit on it", "three birds fly over water"]
    assert metric(truth, truth).value == pytest.approx(
        1 - 0.5 / 5**3 if metric is meteor else metric(truth, truth).best
    )
    score = metric(["xx"] * 3, truth)
    assert score.value == 0 if score.higher_is_better else score.value > 0.9


@every_metric
def test_more_right_words_are_never_worse(metric):
    truth = "a small red dog runs over wet grass".split()
    other = "two cats"
    scores = [
        metric([" ".join(truth[:right] + ["zzz"] * (8 - right)), other], [" ".join(truth), other])
        for right in range(9)
    ]
    for values in ([score.per_item[0] for score in scores], [score.value for score in scores]):
        rising = values if scores[0].higher_is_better else [-value for value in values]
        # chunks of METEOR 1.5 are summed over the corpus, and the first of a caption costs more than it brings
        assert rising == sorted(rising) or metric is METRICS["meteor15"] and rising[1:] == sorted(rising[1:])
        assert rising[0] < rising[-1]


@few
@given(items, caption)
def test_another_reference_never_makes_the_nearest_worse(pairs, more):
    told, truth = zip(*pairs, strict=True)
    added = [[*one, more] for one in truth]
    for name in NEAREST:
        assert (METRICS[name](told, added).per_item >= METRICS[name](told, truth).per_item - 1e-12).all()
    for metric in (wer, cer):
        low, high = metric(told, added).per_item, metric(told, truth).per_item
        assert (np.nan_to_num(low) <= np.nan_to_num(high, nan=np.inf) + 1e-12).all()
    for order in (1, 2):
        before, after = (bleu(told, one, order).details for one in (truth, added))
        assert after[f"precision_{order}"] >= before[f"precision_{order}"]


def test_a_reference_with_nothing_in_common_lowers_cider_by_its_share():
    told, truth = ["a red dog runs"], [["a red dog runs", "the red dog"]]
    others = [["a red dog runs", "the dog"], ["two cats"], ["a boat"]]
    before, after = (cider_d(told, [refs], corpus=others).value for refs in (truth[0], [*truth[0], "xx yy zz ww"]))
    assert after == pytest.approx(before * 2 / 3)


@pytest.mark.parametrize("metric", [bleu, rouge_l, meteor, cider_d, wer, cer])
def test_what_is_no_sequence_of_captions_is_refused(metric):
    with pytest.raises(TypeError, match="predictions is one string"):
        metric("ab", ["a", "b"])
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        metric(["a", "b"], ["a"])
    with pytest.raises(ValueError, match=r"references\[1\] is empty"):
        metric(["a", "b"], ["a", []])


def test_all_at_once_are_those_of_each():
    told, truth = ["a dog runs", "two cats", ""], [["dogs run"], ["a cat", "two cats on it"], ["a"]]
    found = caption_scores(told, truth)
    assert tuple(found) == CAPTION_METRICS
    alone = {name: metric(told, truth) for name, metric in METRICS.items() if name in found}
    alone |= {f"bleu{n}": bleu(told, truth, n) for n in (2, 3)}
    for name, score in found.items():
        assert score.name == name and score.value == alone[name].value
        assert np.array_equal(score.per_item, alone[name].per_item)
    assert caption_scores(told, truth, ["bleu2"], tokenizer="characters")["bleu2"].value > found["bleu2"].value
    with pytest.raises(ValueError, match="spice.*accepted are exact_match"):
        caption_scores(told, truth, ["spice"])


def test_every_metric_has_an_interval_around_its_value():
    told = ["a red dog runs", "two cats", "a boat on water", "the man", "a big house"] * 4
    truth = ["a dog runs", "two cats sit", "boat on the water", "a man", "a house"] * 4
    for score in caption_scores(told, truth).values():
        value, low, high = score.interval(range(20), resamples=200)
        assert low <= value == score.value <= high, score.name
