"""Tux Paint's stamps: which rows are one group, what a row holds, and the files that `mm train` reads."""

import json

import numpy as np
import pytest
from PIL import Image

from mm.data.load import load_data
from mm.recipes import stamps as module
from mm.recipes.stamps import Stamp, grouped, load_stamps, picture_of, words_of, write_rows


def test_captions_that_say_the_same_are_one():
    assert words_of("The letter A.") == words_of("a letter a") == "letter a"
    assert words_of("Some cherries!") == "cherries" and words_of("Another one") == "another one"


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)


def test_rows_with_one_text_or_alike_pictures_are_one_group_over_several_rows():
    pictures = np.stack([noise(0), noise(1), noise(2), noise(1), noise(4)])
    pictures[3, :2, :2] = 0
    assert grouped(["a", "b", "c", "c", "d"], pictures) == [0, 1, 1, 1, 4]  # b is like c's second picture
    assert grouped(["a", "b", "c", "d", "e"], np.stack([noise(n) for n in range(5)])) == [0, 1, 2, 3, 4]


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "usr/share/tuxpaint/stamps/animals"
    folder.mkdir(parents=True)
    for number in range(40):
        name = f"thing{number}"
        text = f"Thing {number % 20}.\nfr.utf8=Chose {number}.\nde.utf8=\n"
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        Image.fromarray(np.dstack([noise(number), noise(number)[..., :1]])).save(folder / f"{name}.png")
        (folder / f"{name}_desc_fr.ogg").write_bytes(b"sound")
    (folder / "no_picture.txt").write_text("Nothing.\n", encoding="utf-8")
    monkeypatch.setattr(module, "debian_directory", lambda *_: tmp_path)
    monkeypatch.setenv("MM_DATA", str(tmp_path))
    return tmp_path


def test_rows_and_their_folds(root):
    rows = load_stamps()
    assert len(rows) == 40 and rows[0].name == "animals/thing0"
    assert rows[0].captions == {"en": "Thing 0.", "fr": "Chose 0."} and set(rows[0].sounds) == {"fr"}
    folds = {}
    for row in rows:
        assert folds.setdefault(row.caption, row.fold) == row.fold  # a caption is in one split
    assert {row.split for row in rows} == {"train", "dev", "test"}
    kept = (root / "stamps-folds.json").read_text()
    assert load_stamps() == rows and (root / "stamps-folds.json").read_text() == kept
    (root / "usr/share/tuxpaint/stamps/animals/thing39.png").unlink()
    assert len(load_stamps()) == 39  # folds of other rows are not taken for theirs


def test_a_table_that_can_be_trained_on(root, tmp_path):
    rows = load_stamps()[:3]
    file = write_rows(rows, tmp_path / "out", "train", words_of)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["caption"] for line in lines] == ["thing 0", "thing 1", "thing 10"]
    data = load_data(str(file))
    assert len(data) == 3
    with Image.open(data[0]["image"]) as picture:
        assert picture.mode == "RGB" and picture.size == (64, 64)
        assert np.array_equal(np.asarray(picture), np.asarray(picture_of(rows[0].file)))


def test_splits_by_fold(tmp_path):
    made = [Stamp("x", tmp_path, {"en": " A B. "}, {}, fold) for fold in range(10)]
    assert [one.split for one in made] == ["test", "test", "dev", *["train"] * 7] and made[0].caption == "a b."
