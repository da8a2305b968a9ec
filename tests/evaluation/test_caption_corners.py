"""Corner values of caption metrics, by hand, and where public implementations disagree: the numbers of both."""

import math

import pytest

from mm.evaluation.bleu import bleu
from mm.evaluation.captions import chrf
from mm.evaluation.cider import cider, cider_d
from mm.evaluation.meteor import MeteorSettings, meteor
from mm.evaluation.rouge import rouge_l


def test_one_picture_has_no_cider_unless_it_is_told_what_is_rare():
    with pytest.raises(ValueError, match="one picture.*corpus="):
        cider_d(["a dog"], ["a dog"])
    assert cider_d(["a dog"], ["a dog"], corpus=["a dog"]).value == 0.0  # as pycocoevalcap
    assert cider_d(["a b c d"], ["a b c d"], corpus=["a b c d", "x"]).value == pytest.approx(10)


def test_cider_of_equal_captions_is_a_quarter_for_each_length_of_n_gram():
    score = cider_d(["a red dog runs", "two black cats", "birds"], ["a red dog runs", "two black cats", "birds"])
    assert score.per_item.tolist() == pytest.approx([10, 7.5, 2.5])


def test_repeated_words_pay_in_cider_and_not_in_cider_d():
    truth = ["dog", "cat"]
    assert cider(["dog dog dog dog", "cat"], truth).per_item[0] == pytest.approx(2.5)
    assert cider_d(["dog dog dog dog", "cat"], truth).per_item[0] == pytest.approx(2.5 / 4 * math.exp(-9 / 72))


def test_cider_of_one_of_five_references_is_a_fifth():
    others = ["fish swim under ice", "green tea is hot", "trains stop at noon", "snow falls all night"]
    score = cider_d(["a red dog runs", "two cats"], [["a red dog runs", *others], ["two cats"]])
    assert score.per_item[0] == pytest.approx(2.0)


def test_an_n_gram_of_no_reference_grows_with_the_corpus():
    told, truth = ["a red dog zzz", "two cats"], ["a red dog runs", "two cats"]
    assert cider_d(told * 2, truth * 2).value < cider_d(told, truth).value


def test_bleu_of_a_short_caption_follows_sacrebleu_and_the_switch_pycocoevalcap():
    short = ["a red dog"]
    assert bleu(short, short).value == 0 and bleu(short, short).per_item[0] == pytest.approx(1)
    assert bleu(short, short, smoothing="coco").value == pytest.approx(0.0316227766)
    assert bleu(short, short, 3, smoothing="coco").value == pytest.approx(0.9999999991, abs=1e-10)
    assert bleu(short, short, 3, smoothing="none").value == pytest.approx(1)


def test_bleu_without_a_match_of_four_words_has_three_answers():
    told, truth = ["a dog runs so fast"], ["a dog runs very fast"]  # 4/5, 2/4, 1/3, 0/2
    assert bleu(told, truth).value == pytest.approx((4 / 5 * 2 / 4 / 3 * 1 / 2 / 2) ** 0.25)
    assert bleu(told, truth, smoothing="none").value == 0
    assert bleu(told, truth, smoothing="coco").value == pytest.approx((4 / 5 / 2 / 3 * 1e-15 / 2) ** 0.25)


def test_bleu_of_the_corpus_is_not_the_mean_and_of_two_lengths_the_shorter_counts():
    score = bleu(["a b c d", "a b"], ["a b c d", "a b c d"], 1)
    assert score.value == pytest.approx(math.exp(1 - 8 / 6)) and score.value != pytest.approx(score.per_item.mean())
    details = bleu(["a b c d e"], [["a b c d e f", "a b c d"]], 1).details
    assert (details["reference_words"], details["brevity_penalty"]) == (4, 1)


def test_rouge_l_is_not_perfect_for_a_caption_that_equals_no_reference():
    told, truth = ["a dog runs over the grass"], [["a dog", "a dog runs over the grass with a ball in its mouth"]]
    assert rouge_l(told, truth, best="coco").value == 1
    assert rouge_l(told, truth).value == max(rouge_l(told, [one]).value for one in truth[0]) < 0.7
    assert rouge_l(["a b"], ["a b c d"]).value == pytest.approx(2.44 * 1 * 0.5 / (0.5 + 1.44))


def test_spaces_cost_nothing():
    for metric in (rouge_l, bleu, chrf):
        assert metric(["  a  dog runs fast "], ["a dog runs fast"]).value == pytest.approx(
            metric(["x y z w"], ["x y z w"]).value
        )


def test_meteor_knows_plurals_and_what_chunks_cost():
    assert meteor(["dogs"], ["dog"]).value == meteor(["dog"], ["dog"]).value == 0.5  # one word, one chunk: nltk
    assert meteor(["red dog"], ["red dog"]).value == 1 - 0.5 / 2**3
    assert meteor(["dogs"], ["dog"], stemmer=None).value == 0
    assert meteor(["dog"], ["dog"], version="1.5").value == 1
    free = MeteorSettings(gamma=0)
    assert meteor(["c b a"], ["a b c"], version=free).value == 1
    assert meteor(["automobile"], ["car"], version=free, synonyms=lambda word: {"vehicle"}).value == 1
    assert meteor(["automobile"], ["car"], version=free).value == 0


# java -jar meteor-1.5.jar hyp ref -l en -m "exact stem" -w "1.0 0.6" -p "0.85 0.2 0.6 0.5"
JAR = {
    ("dog", "dog"): 1.0,
    ("a dog runs", "a dog runs"): 1.0,
    ("a dog", "a dog runs"): 0.33520678,
    ("dog", "dogs"): 0.6,
    ("red dog x", "red dogs y"): 0.25475715,
    ("x", "y"): 0.0,
    ("", "a"): 0.0,
}


def test_meteor_1_5_is_that_of_the_authors_program():
    score = meteor(*zip(*JAR, strict=True), version="1.5", tokenizer="space")
    assert score.per_item == pytest.approx(list(JAR.values()), abs=1e-8)
    assert score.value == pytest.approx(0.3589090884036544)


def test_meteor_takes_the_alignment_with_the_fewest_chunks():
    # the first "a" matched with the first "a" would tear "a dog" apart: 3 chunks, not 2
    score = meteor(["a dog sees a"], ["a cat a dog"], version=MeteorSettings(gamma=1, beta=1))
    assert score.statistics[0].tolist() == [4, 4, 3, 0, 0, 2]


def test_empty_captions_have_nothing_in_common_and_equal_words_all():
    for metric in (bleu, rouge_l, meteor, chrf):
        assert metric([""], [""]).value == metric([""], ["a dog"]).value == 0
    assert chrf(["dog"], ["dog"]).value == pytest.approx(100)  # nltk and torchmetrics: 50


def test_chinese_is_compared_by_character():
    told, truth = ["一只狗在跑"], ["一只黑狗在跑"]
    assert bleu(told, truth, 1).value == pytest.approx(math.exp(1 - 6 / 5))
    assert rouge_l(told, truth, beta=1).value == pytest.approx(2 * 5 / 11)
    assert bleu(told, truth, 1, tokenizer="coco").value == 0  # one word, another word


def test_unknown_settings_are_refused():
    for call, words in (
        (lambda: bleu(["a"], ["a"], 0), "order=0"),
        (lambda: bleu(["a"], ["a"], smoothing="floor"), "accepted are exp, none, coco"),
        (lambda: rouge_l(["a"], ["a"], best="mean"), "accepted are reference, coco"),
        (lambda: rouge_l(["a"], ["a"], beta=0), "beta=0"),
        (lambda: cider_d(["a", "b"], ["a", "b"], sigma=0), "sigma=0"),
        (lambda: meteor(["a"], ["a"], version="2"), "accepted are 2007, 1.5"),
        (lambda: meteor(["a"], ["a"], stemmer="klingon"), "accepted are .*english"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
