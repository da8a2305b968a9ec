"""Views of drawings: a function of (seed, view, picture) that keeps pixels in range and paper white."""

import torch

from mm.recipes.augment import RANGES, augment, draws, vary


def pictures(count: int = 6) -> torch.Tensor:
    """float (count, 3, 32, 32): coloured squares on white."""
    drawn = torch.ones(count, 3, 32, 32)
    drawn[:, :, 10:22, 10:22] = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return drawn


def test_a_view_depends_on_seed_view_and_picture_alone():
    together = augment(pictures(), draws([7, 3, 9, 0, 4, 5], view=2, seed=1))
    alone = torch.cat([augment(pictures()[i : i + 1], draws([k], 2, 1)) for i, k in enumerate([7, 3, 9, 0, 4, 5])])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    assert not torch.equal(draws([7], 2, 1)["angle"], draws([7], 3, 1)["angle"])
    assert not torch.equal(draws([7], 2, 1)["angle"], draws([7], 2, 2)["angle"])


def test_draws_stay_in_their_ranges():
    drawn = draws(list(range(200)), view=0, seed=0)
    for name, (low, high) in RANGES.items():
        assert low <= float(drawn[name].min()) < float(drawn[name].max()) <= high, name


def test_pixels_stay_in_0_to_1_and_every_view_differs_from_the_drawing():
    for view in range(5):
        seen = augment(pictures(), draws(list(range(6)), view, seed=0))
        assert seen.shape == (6, 3, 32, 32)
        assert 0 <= float(seen.min()) and float(seen.max()) <= 1
        assert (seen - pictures()).abs().amax(dim=(1, 2, 3)).min() > 0.05


def test_blank_paper_stays_white():
    blank = torch.ones(4, 3, 32, 32)
    for view in range(5):
        torch.testing.assert_close(augment(blank, draws([0, 1, 2, 3], view, seed=0)), blank, rtol=0, atol=1e-6)


def test_drawings_vary_by_seed_view_and_picture_alone_and_keep_paper_white():
    others = pictures().flip(0)
    together = vary(pictures(), others, [7, 3, 9, 0, 4, 5], view=2, seed=1)
    assert together.shape == (6, 3, 32, 32) and 0 <= float(together.min()) and float(together.max()) <= 1
    alone = [vary(pictures()[i : i + 1], others[i : i + 1], [k], 2, 1) for i, k in enumerate([7, 3, 9, 0, 4, 5])]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)
    assert not torch.equal(vary(pictures(), others, [7, 3, 9, 0, 4, 5], view=3, seed=1), together)
    blank = torch.ones(3, 3, 32, 32)
    torch.testing.assert_close(vary(blank, blank, [0, 1, 2], 0, 0), blank, rtol=0, atol=1e-6)


def test_some_drawings_are_mixed_and_the_others_are_not():
    black, red = torch.zeros(40, 3, 32, 32), torch.zeros(40, 3, 32, 32)
    red[:, 0] = 1.0
    seen = vary(black, red, list(range(40)), view=0, seed=0)[:, :, 12:20, 12:20]
    mixed = seen[:, 0].amax((1, 2)) > 0.1
    assert 4 <= int(mixed.sum()) <= 18 and float(seen[:, 0].max()) <= 0.67 and float(seen[:, 1:].max()) < 0.01
