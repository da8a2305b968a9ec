"""Cut-outs on backgrounds: the mask is where the drawing is, as large as asked, anywhere."""

import numpy as np
import pytest

from mm.recipes.cutouts import BACKGROUNDS, background, cut_out, paste

SIDE = 64
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40">'
RING = f'{HEAD}<path fill="#00f" fill-rule="evenodd" d="M5 10h30v20h-30zM15 15h10v10h-10z"/></svg>'  # 30 x 20, a hole


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_a_drawing_changes_its_background_only_where_it_is(kind):
    on = background(kind, SIDE, generator())
    before = on.copy()
    pasted = paste(RING, on, 0.15, generator())
    assert pasted is not None and np.array_equal(on, before)
    changed = (pasted.picture != on).any(-1)
    assert (pasted.picture[pasted.mask] == (0, 0, 255)).all(-1).mean() > 0.8  # but for the smooth edge
    rows, columns = np.nonzero(pasted.mask)
    box = np.zeros_like(pasted.mask)
    box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert not changed[~box].any() and not pasted.mask[round(rows.mean()), round(columns.mean())]  # the hole


@pytest.mark.parametrize("area", [0.05, 0.15, 0.25])
def test_its_area_is_the_one_asked_for_and_every_place_is_as_likely(area):
    masks = []
    for seed in range(60):
        pasted = paste(RING, background("white", SIDE, generator()), area, generator(seed))
        assert pasted is not None
        masks.append(pasted.mask)
    assert np.mean(masks) == pytest.approx(area, rel=0.1)
    lefts, tops = ([int(np.nonzero(mask.any(axis))[0][0]) for mask in masks] for axis in (0, 1))
    for starts in (lefts, tops):
        assert min(starts) < 5 and len(set(starts)) > 8
    assert max(np.nonzero(mask.any(0))[0][-1] for mask in masks) > SIDE - 5


def test_a_second_drawing_lies_beside_the_first_or_not_at_all():
    on = background("colour", SIDE, generator(1))
    first = paste(RING, on, 0.2, generator(2))
    assert first is not None
    second = paste(RING, first.picture, 0.1, generator(3), beside=first.mask)
    assert second is not None and not (first.mask & second.mask).any()
    assert paste(RING, on, 0.1, generator(), beside=np.ones((SIDE, SIDE), bool)) is None
    assert paste(RING, on, 0.9, generator()) is None


def test_backgrounds_are_what_their_names_say():
    assert (background("white", SIDE, generator()) == 255).all()
    assert len(np.unique(background("colour", SIDE, generator(4)).reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(background("texture", SIDE, generator(5)).reshape(-1, 3), axis=0)) > SIDE


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: background("sky", SIDE, generator()), "white, colour, texture"),
        (lambda: paste(RING, background("white", SIDE, generator()), 15, generator()), "share of the picture"),
        (lambda: cut_out(f"{HEAD}</svg>"), "opaque"),
    ],
)
def test_what_cannot_be_pasted_is_an_error_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()
