"""Emoji pictures and their splits. The tests that need the packs are slow and fetch what is not there."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mm.recipes import emoji, sources
from mm.recipes.emoji import (
    DEV_VENDOR,
    TEST_VENDOR,
    TRAIN_VENDORS,
    VENDORS,
    concept_key,
    crop_to_content,
    fold,
    load_items,
    pictures,
    render,
    render_transparent,
    split_of,
)

DATA = Path(os.environ.get("MM_DATA") or Path(__file__).parents[2] / ".data")
HEAD = '<svg xmlns="http://www.w3.org/2000/svg"'


def with_box(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A white picture of `size` (width, height) with one blue box; right and bottom are exclusive."""
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    pixels[top:bottom, left:right] = (0, 0, 255)
    return Image.fromarray(pixels)


def test_a_concept_key_is_lower_case_without_variation_selectors():
    assert concept_key("1F5DD-FE0F") == "1f5dd"
    assert concept_key("1F3CB-FE0F-200D-2642-FE0F") == "1f3cb-200d-2642"


def test_fold_is_a_fixed_function_of_the_text():
    # python -c "import hashlib; print(int(hashlib.sha1(b'1f34e').hexdigest()[:8], 16) % 10)", and so on
    assert [fold(text) for text in ("1f34e", "1f436", "1f355", "")] == [9, 0, 1, 6]
    assert {fold(str(number)) for number in range(100)} == set(range(10))


def test_a_split_is_decided_by_the_fold_of_the_concept():
    assert [split_of(concept) for concept in ("1f34e", "1f436", "1f355")] == ["seen", "unseen_test", "unseen_dev"]


def test_a_right_facing_variant_goes_with_its_concept():
    for concept in ("1f34e", "1f436", "1f355", "1f9d1-200d-1f9af"):
        assert split_of(f"{concept}-200d-27a1") == split_of(concept)


def test_a_plain_alias_is_followed_and_a_turned_or_mirrored_one_is_not_drawn():
    aliases = {
        "same": {"parent": "dog"},
        "left": {"parent": "dog", "hFlip": True},
        "up": {"parent": "dog", "rotate": 1},
    }
    icons = {"icons": {"dog": {"body": "<g/>"}}, "aliases": aliases}
    assert emoji._icon(icons, "dog") == emoji._icon(icons, "same") == {"body": "<g/>"}
    assert (
        emoji._icon(icons, "left") is None and emoji._icon(icons, "up") is None and emoji._icon(icons, "cat") is None
    )


def test_an_icon_takes_its_box_from_itself_and_then_from_its_set():
    svg = emoji._svg({"body": "<g/>", "width": 40}, {"width": 36, "height": 30, "top": 2})
    assert 'viewBox="0 2 40 30"' in svg and svg.endswith("<g/></svg>")


@pytest.mark.parametrize("box, filled", [("0 0 20 10", (16, 8)), ("0 0 10 20", (8, 16)), ("0 0 10 10", (16, 16))])
def test_a_drawing_fills_the_longer_side_and_is_centred_on_white(box, filled):
    image = render(f'{HEAD} viewBox="{box}"><rect width="20" height="20" fill="red"/></svg>', 16)
    assert image.mode == "RGB" and image.size == (16, 16)
    red = np.argwhere((np.asarray(image) == (255, 0, 0)).all(axis=-1))
    low, high = red.min(axis=0), red.max(axis=0) + 1
    assert tuple((high - low)[::-1]) == filled
    assert tuple(low + high) == (16, 16)


def test_a_transparent_drawing_has_no_colour_around_it():
    svg = f'{HEAD} viewBox="0 0 8 8"><circle cx="4" cy="4" r="2" fill="red"/></svg>'
    pixels = np.asarray(render_transparent(svg, 16))
    assert pixels.shape == (16, 16, 4) and pixels[0, 0, 3] == 0 and pixels[8, 8].tolist() == [255, 0, 0, 255]


def test_what_is_no_svg_is_an_error():
    with pytest.raises(ValueError):
        render("no picture", 16)


def cropped(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(crop_to_content(image, size))


def test_crop_fills_the_square_with_the_content():
    assert cropped(with_box(5, 3, 15, 13), 10).reshape(-1, 3).tolist() == [[0, 0, 255]] * 100


def test_crop_pads_the_shorter_side_with_white_on_both_ends():
    pixels = cropped(with_box(5, 3, 25, 13), 20)
    assert (pixels[[0, 1, -2, -1]] == 255).all() and (pixels[8:12] == (0, 0, 255)).all()


def test_crop_does_not_see_almost_white_pixels():
    image = with_box(5, 3, 15, 13)
    image.putpixel((39, 29), (247, 250, 255))
    assert np.array_equal(cropped(image, 10), cropped(with_box(5, 3, 15, 13), 10))


def test_crop_is_the_same_wherever_the_content_stands():
    assert np.array_equal(cropped(with_box(0, 0, 9, 7), 32), cropped(with_box(31, 23, 40, 30), 32))


def test_a_white_picture_stays_white_and_becomes_a_square():
    pixels = cropped(Image.new("RGB", (40, 30), "white"), 16)
    assert pixels.shape == (16, 16, 3) and (pixels == 255).all()


def test_an_unknown_vendor_is_told_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="'apple'.*noto"):
        load_items(["apple"], tmp_path)


def test_a_picture_size_below_one_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="size=0"):
        pictures([], 0, data_dir=tmp_path)


def test_no_items_give_no_pictures(tmp_path):
    assert pictures([], 24, data_dir=tmp_path).shape == (0, 24, 24, 3)


def test_no_style_family_is_on_both_sides():
    families = [{vendor.split("-")[0] for vendor in group} for group in (TRAIN_VENDORS, [DEV_VENDOR], [TEST_VENDOR])]
    assert sum(len(family) for family in families) == len(set.union(*families)) == 5


@pytest.fixture(scope="module")
def fresh_data(tmp_path_factory):
    """A data folder with the fetched packages and nothing drawn yet."""
    for source in sources.SOURCES:
        if source.group == "emoji":
            sources.fetch(source, DATA)
    folder = tmp_path_factory.mktemp("data")
    (folder / "packages").symlink_to((DATA / "packages").resolve(), target_is_directory=True)
    return folder


@pytest.mark.slow
def test_the_splits_have_their_known_sizes(fresh_data):
    items = load_items(VENDORS, fresh_data)
    concepts = {item.concept for item in items}
    assert Counter(split_of(concept) for concept in concepts) == {"seen": 1301, "unseen_dev": 153, "unseen_test": 140}
    assert len(concepts) == 1594 and len(items) == 11111
    seen = Counter(item.vendor for item in items if split_of(item.concept) == "seen")
    assert sum(seen[vendor] for vendor in TRAIN_VENDORS) == 6476
    assert seen[DEV_VENDOR] == seen[TEST_VENDOR] == 1301


@pytest.mark.slow
def test_a_concept_has_one_label_and_a_label_one_concept(fresh_data):
    items = load_items(VENDORS, fresh_data)
    assert len({(item.concept, item.label) for item in items}) == len({item.label for item in items}) == 1594
    assert all(item.label == item.label.lower().strip() != "" for item in items)
    apple = next(item for item in items if item.label == "red apple")
    assert apple.concept == "1f34e" and "fruit" in apple.tags


@pytest.mark.slow
@pytest.mark.parametrize("crop", [False, True])
def test_kept_pictures_are_the_drawn_ones_in_the_order_asked(fresh_data, crop):
    items = load_items(["twemoji", "emojione-v1"], fresh_data)[::-37]
    first = pictures(items, 24, crop, fresh_data)
    files = {path: path.stat().st_mtime_ns for path in (fresh_data / "pictures").iterdir()}
    again = pictures(items, 24, crop, fresh_data)
    assert files == {path: path.stat().st_mtime_ns for path in (fresh_data / "pictures").iterdir()}
    assert first.dtype == np.uint8 and first.shape == (len(items), 24, 24, 3)
    drawn = np.stack([np.asarray(emoji._draw(item, 24, crop)) for item in items])
    assert np.array_equal(first, drawn) and np.array_equal(again, drawn)
    assert (first.reshape(len(items), -1).std(axis=1) > 0).all()


@pytest.mark.slow
def test_pictures_of_an_item_from_elsewhere_are_an_error(fresh_data):
    item = emoji.EmojiItem("twemoji", "1f34e", "red apple", (), "<svg/>")
    with pytest.raises(ValueError, match="1 items of twemoji are not from load_items.*'1f34e'"):
        pictures([item], 24, data_dir=fresh_data)
