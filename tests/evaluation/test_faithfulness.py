"""Deletion, insertion and the pointing game, on models whose reasons are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm.evaluation.faithfulness import (
    area_under,
    centre_map,
    deletion_curve,
    enlarge,
    filled,
    insertion_curve,
    mass_inside,
    pointing_hit,
    random_map,
    replaced,
)

SHAPE = (24, 30)
BOX = np.zeros(SHAPE, bool)
BOX[4:10, 18:28] = True
PICTURE = np.zeros((*SHAPE, 3), np.uint8)
PICTURE[BOX] = 255


def looks_at_the_box(pictures: np.ndarray) -> np.ndarray:
    """The score of a model that only reads the box: its brightness, 0..1."""
    return pictures[:, BOX].mean((1, 2)) / 255


def areas(importance: np.ndarray, **options) -> tuple[float, float]:
    return (
        area_under(deletion_curve(looks_at_the_box, PICTURE, importance, fill=(0, 0, 0), **options)),
        area_under(insertion_curve(looks_at_the_box, PICTURE, importance, fill=(0, 0, 0), **options)),
    )


def test_the_true_map_deletes_faster_and_inserts_faster_than_any_other():
    deletion, insertion = areas(BOX.astype(float), steps=24)
    for other in (centre_map(SHAPE), random_map(SHAPE, 5, np.random.default_rng(0)), 1.0 - BOX):
        worse_deletion, worse_insertion = areas(other, steps=24)
        assert deletion < worse_deletion and insertion > worse_insertion


def test_areas_of_the_true_map_are_those_of_its_formula():
    # the box is 60 of 720 pixels: with 12 steps it is gone after one, so the curve is 1, 0, 0, ... and 0, 1, 1, ...
    deletion, insertion = areas(BOX.astype(float), steps=12)
    assert deletion == pytest.approx(0.5 / 12) and insertion == pytest.approx(1 - 0.5 / 12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 9))
def test_only_the_order_of_a_map_counts(seed, steps):
    drawn = np.random.default_rng(seed).random(SHAPE)
    curve = deletion_curve(looks_at_the_box, PICTURE, drawn, steps)
    assert np.array_equal(curve, deletion_curve(looks_at_the_box, PICTURE, np.exp(5 * drawn) - 7, steps))
    assert len(curve) == steps + 1 and curve[0] == 1.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 9))
def test_each_step_replaces_an_equal_share_and_keeps_what_is_replaced(seed, steps):
    drawn = np.random.default_rng(seed).integers(0, 4, SHAPE).astype(float)  # many are equal
    frames = replaced(np.zeros((*SHAPE, 3), np.uint8), np.ones((*SHAPE, 3), np.uint8), drawn, steps)
    shares = frames[..., 0].mean((1, 2))
    assert np.allclose(shares, np.linspace(0, 1, steps + 1), atol=1 / BOX.size)
    assert (np.diff(frames.astype(int), axis=0) >= 0).all()
    for frame in frames[1:-1, ..., 0].astype(bool):
        assert drawn[frame].min() >= drawn[~frame].max()


def test_a_fill_keeps_the_mean_and_a_colour_is_taken_as_it_is():
    assert (filled(PICTURE, "mean") == round(PICTURE.mean())).all()
    assert (filled(PICTURE, (1, 2, 3)) == (1, 2, 3)).all()
    blurred = filled(PICTURE, "blur", blur=0.1)
    assert abs(blurred.mean() - PICTURE.mean()) < 2 and blurred.std() < PICTURE.std()
    assert filled(PICTURE, "blur", blur=0.3).std() < blurred.std()


def test_the_pointing_game_shares_a_hit_among_equal_maxima():
    point = np.zeros(SHAPE)
    point[5, 20] = 1
    assert pointing_hit(point, BOX) == 1 and pointing_hit(-point, BOX) < 1
    point[0, 0] = 1
    assert pointing_hit(point, BOX) == 0.5
    assert pointing_hit(np.ones(SHAPE), BOX) == pytest.approx(BOX.mean())


def test_a_tolerance_counts_near_misses_and_no_others():
    near = np.zeros(SHAPE)
    near[4, 15] = 1  # three pixels left of the box
    assert [pointing_hit(near, BOX, tolerance) for tolerance in (0, 2, 3)] == [0, 0, 1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_mass_inside_and_outside_add_up(seed):
    drawn = random_map(SHAPE, 6, np.random.default_rng(seed))
    assert mass_inside(drawn, BOX) + mass_inside(drawn, ~BOX) == pytest.approx(1)
    assert mass_inside(7 * drawn, BOX) == pytest.approx(mass_inside(drawn, BOX))
    assert mass_inside(np.ones(SHAPE), BOX) == pytest.approx(BOX.mean())


def test_baselines_sum_to_one_and_the_centre_is_in_the_middle():
    for drawn in (centre_map(SHAPE), random_map(SHAPE, (3, 5), np.random.default_rng(1))):
        assert drawn.shape == SHAPE and drawn.min() >= 0 and drawn.sum() == pytest.approx(1)
    middle = centre_map((25, 31))
    assert np.unravel_index(middle.argmax(), middle.shape) == (12, 15)
    assert np.allclose(enlarge(np.full((4, 4), 0.25), SHAPE), 0.25)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: deletion_curve(looks_at_the_box, PICTURE, np.ones((3, 3))), "own size"),
        (lambda: deletion_curve(lambda pictures: np.ones(2), PICTURE, np.ones(SHAPE)), "one finite number each"),
        (lambda: deletion_curve(looks_at_the_box, PICTURE, np.ones(SHAPE), steps=0), "steps=0"),
        (lambda: filled(PICTURE, "grey"), "'mean', 'blur'"),
        (lambda: filled(PICTURE, (0, 0, 300)), "0..255"),
        (lambda: filled(PICTURE.astype(float)), "uint8"),
        (lambda: area_under(np.ones(1)), "two points"),
        (lambda: pointing_hit(np.ones(SHAPE), np.zeros(SHAPE, bool)), "mask"),
        (lambda: pointing_hit(np.full(SHAPE, np.nan), BOX), "finite"),
        (lambda: mass_inside(np.zeros(SHAPE), BOX), "0 or more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_measured_is_an_error_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()
