"""Words of a model whose pictures are cut into tiles: one map over the whole picture, put together from its tiles."""

import pytest
import torch
from PIL import Image

from mm.explaining.changed_pictures import integrated_gradients, lost_by_occlusion
from mm.processing.images.tiles import CanvasTiles, GridTiles, Tiles

KINDS = {
    "with a whole": Tiles.of({"size": 24, "longest_edge": 96}),
    "on black": GridTiles.of({"size": 24, "resolutions": [[48, 72], [72, 24], [96, 48]]}),
    "at the top left": CanvasTiles.of({"size": 24, "max_tiles": 4}),
}
SIZES = [(90, 40), (31, 88), (50, 50), (24, 7)]


def spotted(width: int, height: int, at: tuple[float, float]) -> Image.Image:
    """Black with a white spot of an eighth of each side, whose middle is at these shares of the sides."""
    picture = Image.new("L", (width, height))
    left, top = (int(side * share - side / 16) for side, share in zip((width, height), at, strict=True))
    picture.paste(255, (left, top, left + max(width // 8, 1), top + max(height // 8, 1)))
    return picture.convert("RGB")


def as_tensor(tile: Image.Image) -> torch.Tensor:
    return torch.tensor(list(tile.convert("L").tobytes())).view(1, tile.height, tile.width).double() / 255


def brightness(tiles: torch.Tensor) -> torch.Tensor:
    """(n, T, C, H, V) -> (n, 1)."""
    return tiles.sum((1, 2, 3, 4))[:, None]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [(0.2, 0.3), (0.8, 0.6)], ids=str)
def test_what_tiles_show_is_found_at_its_place_in_the_picture(kind, size, at):
    tiles, (width, height) = KINDS[kind], size
    cut = tiles.cut(spotted(width, height, at), Image.Resampling.BOX)[0]
    boxes = tiles.boxes(width, height)
    assert len(boxes) == len(cut)
    spans = [((box.top / height, box.height / height), (box.left / width, box.width / width)) for box in boxes]
    pixels = torch.stack([as_tensor(tile) for tile in cut])
    for found in (
        lost_by_occlusion(brightness, pixels, 8, width=1, tiles=spans),
        integrated_gradients(brightness, pixels, (8, 8), steps=1, tiles=spans),
    ):
        rows, columns = (torch.arange(8) + 0.5 for _ in range(2))
        share = found[0] / found[0].sum()
        middle = float((share.sum(0) * columns).sum()) / 8, float((share.sum(1) * rows).sum()) / 8
        for here, there, side in zip(middle, at, size, strict=True):
            assert abs(here - there) < 0.07 + 1.5 / side  # a pixel of the picture is up to a fourth of a part
    total = integrated_gradients(brightness, pixels, (5, 3), steps=1, tiles=spans).sum()
    torch.testing.assert_close(total, pixels.sum(), rtol=1e-9, atol=0)  # nothing of the picture is left out


def test_a_square_is_occluded_in_every_tile_that_shows_it():
    tiles = KINDS["with a whole"]
    boxes = tiles.boxes(90, 40)
    spans = [((box.top / 40, box.height / 40), (box.left / 90, box.width / 90)) for box in boxes]
    ones = torch.ones(len(boxes), 1, 24, 24)
    seen = []

    def numbers(changed: torch.Tensor) -> torch.Tensor:
        seen.append(changed.clone())
        return changed.sum((1, 2, 3, 4))[:, None]

    found = lost_by_occlusion(numbers, ones, 4, width=1, tiles=spans)
    assert found.min() > 0  # each part is shown by the whole at least
    first = seen[1][0]  # the square at the top left
    assert not first[0, :, 0, 0].any() and not first[-1, :, 0, 0].any() and bool((first[1:-1] == 1).all())
