"""Metrics of pictures beside their formulas, window by window, and what they must do."""

import math

import numpy as np
import pytest

from mm.metrics import frechet_distance, psnr, ssim


def pictures(count=2, side=14, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, side, side))


def test_psnr_is_its_formula_picture_by_picture():
    made, true = pictures(), pictures(seed=1)
    score = psnr(made, true)
    for number in range(2):
        error = sum((a - b) ** 2 for a, b in zip(made[number].flat, true[number].flat, strict=True)) / true[0].size
        assert score.per_item[number] == pytest.approx(-10 * math.log10(error))
    assert score.value == pytest.approx(score.per_item.mean())
    assert psnr(np.zeros((1, 1, 2, 2)), np.full((1, 1, 2, 2), 0.1)).value == pytest.approx(20)
    assert psnr(true, true).value == math.inf


def test_ssim_is_its_formula_window_by_window():
    made, true = pictures(), pictures(seed=1)
    window = np.array([[math.exp(-(i * i + j * j) / 4.5) for j in range(-5, 6)] for i in range(-5, 6)])
    window /= window.sum()
    for number, found in enumerate(ssim(made, true).per_item):
        values = []
        for channel in range(3):
            for row in range(4):
                for column in range(4):
                    x, y = (
                        one[number, channel, row : row + 11, column : column + 11].astype(float)
                        for one in (made, true)
                    )
                    mx, my = (window * x).sum(), (window * y).sum()
                    vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                    both = (window * (x - mx) * (y - my)).sum()
                    values.append(
                        (2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
                    )
        assert found == pytest.approx(np.mean(values), abs=1e-9)


def test_equal_pictures_are_the_best_and_noise_is_worse_than_a_shade():
    true = np.tile(np.linspace(0.2, 0.8, 32), (1, 3, 32, 1))
    noise = np.random.default_rng(0).choice([-0.1, 0.1], true.shape)
    assert ssim(true, true).value == pytest.approx(1)
    assert ssim(true + noise, true).value < ssim(true + 0.1, true).value < 1
    assert psnr(true + noise, true).value == pytest.approx(psnr(true + 0.1, true).value)  # which see no structure


def test_the_frechet_distance_of_one_number_is_that_of_two_normal_distributions():
    generator = np.random.default_rng(0)
    a, b = generator.normal(1, 2, (50, 1)), generator.normal(-1, 3, (70, 1))
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_the_frechet_distance_is_a_distance():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(40, 5)), generator.normal(size=(30, 5)) @ generator.normal(size=(5, 5))
    turn = np.linalg.qr(generator.normal(size=(5, 5)))[0]
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a, a + 2) == pytest.approx(20)
    few = generator.normal(size=(3, 5))  # fewer pictures than numbers
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_wrong_pictures_raise_an_error(metric):
    good = pictures()
    with pytest.raises(ValueError, match=r"\(2, 3, 14, 14\) and \(1, 3, 14, 14\)"):
        metric(good, good[:1])
    with pytest.raises(ValueError, match=r"made has values in .*accepted: 0\.\.1"):
        metric(255 * good, good)
    with pytest.raises(ValueError, match="true has values in nan"):
        metric(good, good * np.nan)
    with pytest.raises(ValueError, match="of the same shape"):
        metric(good[0], good[0])


def test_small_pictures_and_wrong_features_raise_an_error():
    with pytest.raises(ValueError, match="10x10; each side must be at least 11"):
        ssim(pictures(side=10), pictures(side=10))
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(3, 4\)"):
        frechet_distance(np.zeros((1, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.zeros((2, 4)), np.full((3, 4), np.nan))
