"""What a number loses with a part of a picture, and how far each part moved it."""

import pytest
import torch

from mm.explaining.changed_pictures import integrated_gradients, lost_by_occlusion


def corner_and_whole(pictures: torch.Tensor) -> torch.Tensor:
    """Two numbers: of the lower left quarter, and of all pixels; both curved."""
    return torch.stack([pictures[..., 8:, :8].square().sum((1, 2, 3)), pictures.pow(3).sum((1, 2, 3))], 1)


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.1


def test_only_the_parts_that_a_number_reads_count(picture):
    for found in (
        lost_by_occlusion(corner_and_whole, picture, 4, width=1),
        integrated_gradients(corner_and_whole, picture, (4, 4)),
    ):
        assert found.shape == (2, 4, 4)
        corner = torch.zeros(4, 4, dtype=torch.bool)
        corner[2:, :2] = True
        assert bool((found[0][corner] > 0).all()) and not found[0][~corner].any()
        assert bool((found[1] > 0).all())


def test_integrated_gradients_add_up_to_what_the_picture_changed(picture):
    """x^3 has the mean slope x^2 on the way; 16 midpoints are 1/1024 short of it."""
    found = integrated_gradients(corner_and_whole, picture, (4, 4)).sum((1, 2))
    torch.testing.assert_close(found, corner_and_whole(picture[None])[0], rtol=2e-3, atol=0)


def test_occlusion_is_the_difference_of_two_calls(picture):
    found = lost_by_occlusion(corner_and_whole, picture, 5, width=1)  # 16 pixels do not divide by 5
    changed = picture.clone()
    changed[:, 16 * 2 // 5 : 16 * 3 // 5, 16 * 4 // 5 :] = 0
    expected = corner_and_whole(picture[None]) - corner_and_whole(changed[None])
    torch.testing.assert_close(found[:, 2, 4], expected[0])


@pytest.mark.parametrize("width", [2, 3])
def test_a_part_has_the_mean_of_the_squares_that_cover_it(picture, width):
    """Of numbers that add up over parts: the mean over its neighbours, weighted by how many squares cover both."""
    alone = lost_by_occlusion(corner_and_whole, picture, 4, width=1)
    found = lost_by_occlusion(corner_and_whole, picture, 4, width=width)
    padded = torch.nn.functional.pad(alone[:, None], [width - 1] * 4)
    sums = torch.nn.functional.avg_pool2d(padded, width, 1, divisor_override=1)
    torch.testing.assert_close(found, torch.nn.functional.avg_pool2d(sums, width, 1)[:, 0])
    far = torch.zeros(4, 4, dtype=torch.bool)
    far[: 3 - width, :] = far[:, width + 1 :] = True
    assert not found[0][far].any()


def test_no_numbers_have_no_maps(picture):
    def none(pictures):
        return pictures.sum((2, 3))[:, :0]

    assert lost_by_occlusion(none, picture).shape == (0, 8, 8)
    assert integrated_gradients(none, picture, (2, 3)).shape == (0, 2, 3)


def test_other_settings_are_errors(picture):
    with pytest.raises(ValueError, match="cells=17"):
        lost_by_occlusion(corner_and_whole, picture, 17)
    with pytest.raises(ValueError, match="width=5"):
        lost_by_occlusion(corner_and_whole, picture, 4, 5)
    with pytest.raises(ValueError, match="steps=0"):
        integrated_gradients(corner_and_whole, picture, (2, 2), 0)
