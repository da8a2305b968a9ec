"""VQA accuracy: the rule of the challenge, by hand."""

import pytest

from mm.evaluation.answers import CONTRACTIONS, spelled_answer, vqa_score, vqa_scores


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
        vqa_scores(["a", "b"], [["a"]])
    assert vqa_scores(["a", "b"], [["a"], ["c"]]).tolist() == [1.0, 0.0]
