"""Recall at k both ways, by hand and by a slow count over orders."""

from itertools import permutations

import numpy as np
import pytest

from mm.evaluation.ranking import recalls

# three pictures, four texts: 0 and 1 belong to picture 0, 2 to picture 1, 3 to picture 2
OWNER = [0, 0, 1, 2]
SCORES = np.array([[0.9, 0.1, 0.8, 0.2], [0.3, 0.7, 0.6, 0.5], [0.2, 0.4, 0.1, 0.0]])


def test_a_picture_is_right_by_any_of_its_texts():
    found = recalls(SCORES, OWNER, ks=(1, 2, 4))
    assert found["i2t_r1"].tolist() == [1, 0, 0]  # picture 1 takes text 1, picture 2 text 1
    assert found["i2t_r2"].tolist() == [1, 1, 0]
    assert found["i2t_r4"].tolist() == [1, 1, 1]


def test_a_text_is_right_by_its_own_picture():
    found = recalls(SCORES, OWNER, ks=(1, 2, 3))
    assert found["t2i_r1"].tolist() == [1, 0, 0, 0]
    assert found["t2i_r2"].tolist() == [1, 0, 1, 0]
    assert found["t2i_r3"].tolist() == [1, 1, 1, 1]


def test_ties_are_the_mean_over_all_orders():
    scores, right = np.array([[0.5, 0.5, 0.5, 0.1]]), {0, 2}
    for k in (1, 2, 3):
        orders = list(permutations(range(3)))
        expected = np.mean([bool(right & set(order[:k])) for order in orders])
        assert recalls(scores.repeat(2, 0), [0, 1, 0, 1], ks=(k,))[f"i2t_r{k}"][0] == pytest.approx(expected)


def test_a_collapsed_model_has_the_recall_of_guessing():
    found = recalls(np.zeros((20, 20)), range(20))
    assert {name: values.mean().round(9) for name, values in found.items()} == {
        "i2t_r1": 0.05, "i2t_r5": 0.25, "i2t_r10": 0.5, "t2i_r1": 0.05, "t2i_r5": 0.25, "t2i_r10": 0.5,
    }  # fmt: skip


def test_recall_without_ties_is_that_of_sorting():
    rng = np.random.default_rng(0)
    scores, owner = rng.random((30, 90)), np.repeat(np.arange(30), 3)
    order, back = (-scores).argsort(1), (-scores).argsort(0)
    for k, found in ((5, recalls(scores, owner)),):
        assert found[f"i2t_r{k}"].tolist() == [float(row in owner[order[row, :k]]) for row in range(30)]
        assert found[f"t2i_r{k}"].tolist() == [float(owner[text] in back[:k, text]) for text in range(90)]


def test_pictures_without_a_text_are_candidates_only():
    found = recalls(np.array([[0.1], [0.9]]), [0], ks=(1,))
    assert found["t2i_r1"].tolist() == [0] and np.isnan(found["i2t_r1"][1])


def test_wrong_shapes_numbers_and_ks_raise():
    with pytest.raises(ValueError, match="similarity has shape"):
        recalls(np.zeros((2, 3)), [0, 1])
    with pytest.raises(ValueError, match="finite"):
        recalls(np.full((1, 1), np.nan), [0])
    with pytest.raises(ValueError, match="from 0 to 1"):
        recalls(np.zeros((2, 1)), [2])
    with pytest.raises(ValueError, match="ks"):
        recalls(np.zeros((2, 1)), [1], ks=(0,))
