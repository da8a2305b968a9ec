"""VQA accuracy: the rule of the challenge, by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm.evaluation.answers import CONTRACTIONS, SPELLINGS, spelled_answer, vqa_accuracy, vqa_score


@pytest.mark.parametrize(("equal", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_the_mean_over_nine_of_ten_people(equal, accuracy):
    # With three equal answers: leaving one of them out (3 ways) gives 2/3, leaving another out (7 ways) 3/3.
    assert vqa_score("yes", ["yes"] * equal + [f"other {n}" for n in range(10 - equal)]) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("told", "spelled"),
    [
        ("The  Cat.", "cat"),
        ("Two", "2"),
        ("none", "0"),
        ("dont", "don't"),
        ("black-white", "black white"),
        ("black - white", "black white"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("an apple, a pear", "apple pear"),
        ("hows", "how's"),
        ("couldnt've", "couldn't've"),
        ("caf\u00e9", "caf\u00e9"),
    ],
)
def test_answers_have_one_spelling(told, spelled):
    assert spelled_answer(told) == spelled


def test_where_all_people_agree_nothing_is_spelled_anew():
    assert vqa_score("the cat", ["cat"] * 10) == 0.0
    assert vqa_score("the cat", ["cat"] * 9 + ["dog"]) == 1.0


def test_fewer_than_four_answers_are_right_if_one_is_equal():
    assert vqa_score("A cat", ["cat"]) == 1.0
    assert vqa_score("dog", ["cat", "dog", "cow"]) == 1.0
    assert vqa_score("pig", ["cat", "dog", "cow"]) == 0.0
    assert vqa_score("cat", ["cat", "dog", "cow", "hen"]) == pytest.approx((0 + 1 / 3 * 3) / 4)


def test_contractions_are_found_without_one_of_their_apostrophes():
    assert CONTRACTIONS["hadnt've"] == CONTRACTIONS["hadn'tve"] == "hadn't've"
    assert "hadntve" not in CONTRACTIONS and CONTRACTIONS["twas"] == "'twas"


def test_one_string_and_no_answers_raise():
    with pytest.raises(TypeError, match="one string"):
        vqa_score("yes", "yes")
    with pytest.raises(ValueError, match="without answers"):
        vqa_score("yes", [])
    with pytest.raises(ValueError, match="2 predictions"):
        vqa_accuracy(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="spelling"):
        vqa_score("a", ["a"], spelling="vqa")
    assert vqa_accuracy(["a", "b"], [["a"], ["c"]]).per_item.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("told", "answers", "found"),
    [
        ("two", ["two"] * 10, {"official": 1, "always": 1, "lavis": 0, "none": 1}),
        ("the dog", ["the dog"] * 9 + ["cat"], {"official": 1, "always": 1, "lavis": 0, "none": 1}),
        ("Yes", ["yes"] * 10, {"official": 0, "always": 1, "lavis": 1, "none": 0}),
        ("Yes.", ["yes"] * 9 + ["no"], {"official": 1, "always": 1, "lavis": 1, "none": 0}),
    ],
)
def test_programs_spell_other_sides_anew(told, answers, found):
    kept = list(answers)
    assert {name: vqa_score(told, answers, spelling=name) for name in found} == found
    assert vqa_score(told, answers) == found["official"] and answers == kept  # twice the same, as nothing is rewritten


@given(st.lists(st.sampled_from(["yes", "no", "Two", "two"]), min_size=4, max_size=10), st.randoms())
@settings(max_examples=30, deadline=None)
def test_bounds_order_and_another_equal_answer(answers, random):
    for spelling in SPELLINGS:
        for leave_one_out in (True, False):
            score = vqa_score("two", answers, spelling, leave_one_out)
            mixed = random.sample(answers, len(answers))
            assert 0 <= score <= 1 and score == pytest.approx(vqa_score("two", mixed, spelling, leave_one_out))
    assert vqa_score("two", answers, leave_one_out=False) >= vqa_score("two", answers) - 1e-12
    fewer = [*answers[1:], "no"]
    assert vqa_score("two", [*answers[1:], "two"], "always") >= vqa_score("two", fewer, "always") - 1e-12


def test_one_normal_form_and_three_of_ten_by_both_rules():
    assert vqa_score("cafe\u0301", ["caf\u00e9"] * 10) == 1
    three = ["yes"] * 3 + [f"other {n}" for n in range(7)]
    assert (vqa_score("yes", three), vqa_score("yes", three, leave_one_out=False)) == pytest.approx((0.9, 1.0))
