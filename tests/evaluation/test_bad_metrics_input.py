"""What metrics refuse: other kinds of labels, numbers that are no counts, one string in place of several."""

import numpy as np
import pytest

from mm.evaluation import answers, classes, retrieval

P = np.array([[0.9, 0.1], [0.2, 0.8]])
MATRIX = np.eye(3)


def test_bool_labels_are_the_numbers_0_and_1():
    for name in ("brier", "nll", "ece"):
        as_bool = classes.probability_scores(P, np.array([True, False]))[name].value
        assert as_bool == classes.probability_scores(P, np.array([1, 0]))[name].value


WRONG = {
    "auc of a class that is not there": lambda: classes.macro_auc_score(P, [2, 5]),
    "auc of a negative class": lambda: classes.macro_auc_score(P, [0, -1]),
    "auc of words": lambda: classes.macro_auc_score(P, ["a", "b"]),
    "auc beside another width": lambda: classes.macro_auc_score(P, np.eye(3)[:2]),
    "auc of other numbers": lambda: classes.macro_auc_score(P, [[7, 0], [0, 3]]),
    "half a bin": lambda: classes.probability_scores(P, [0, 1], bins=2.5),
    "half a class": lambda: classes.ordinal_scores([0, 1], [1, 1], classes=2.5),
    "a table larger than memory": lambda: classes.ordinal_scores([0, 1], [1, 100_000]),
    "one string": lambda: answers.vqa_accuracy("yes", [["y"] * 10] * 3),
    "answers as they are in the file": lambda: answers.vqa_accuracy(["y"], [[{"answer": "y"}] * 10]),
    "no prediction": lambda: answers.vqa_accuracy([None], [["y"] * 10]),
    "half a rank": lambda: retrieval.similarity_scores(MATRIX, [0, 1, 2], ks=(1.5,)),
    "a truth as a rank": lambda: retrieval.similarity_scores(MATRIX, [0, 1, 2], ks=(True,)),
    "one rank": lambda: retrieval.similarity_scores(MATRIX, [0, 1, 2], ks=5),
    "half a cut": lambda: retrieval.similarity_scores(MATRIX, [0, 1, 2], ndcg_cut=1.5),
    "ways that are read once": lambda: retrieval.similarity_scores(MATRIX, [0, 1, 2], ways=iter(["i2t"])),
    "ways as a string": lambda: retrieval.similarity_scores(MATRIX, [0, 1, 2], ways="i2t"),
    "complex numbers": lambda: retrieval.similarity_scores(MATRIX * 1j, [0, 1, 2]),
    "names of pictures": lambda: retrieval.similarity_scores(MATRIX, ["a", "b", "c"]),
    "a picture that is None": lambda: retrieval.similarity_scores(MATRIX, [0, None, 2]),
    "one picture for all": lambda: retrieval.similarity_scores(MATRIX, 3),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_in_words(call):
    with pytest.raises((ValueError, TypeError), match="give|accepted|strings|holds|must be"):
        call()


def test_large_whole_numbers_are_no_ties():
    similar = np.array([[2**24 + 1, 2**24]])
    assert retrieval.similarity_scores(similar, [[], [0]], ways=["i2t"], ks=[1])["i2t_r1"].value == 0


def test_answers_may_be_an_array():
    assert answers.vqa_accuracy(["y"], np.array([["y"] * 10])).value == 1
