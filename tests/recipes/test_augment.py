"""Views of drawings: a function of (seed, view, picture) that keeps pixels in range and paper white."""

import torch

from mm.recipes.augment import RANGES, augment, draws


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
