#!/bin/sh
# datasets 5.2.0: an Image column takes a Pillow picture that was opened from a file as that file, and forgets what was done
# to the picture in place: thumbnail(), ImageOps.exif_transpose(in_place=True), paste() and drawing (a face blackened out).
# from_dict and map() both give the file's own pixels, in Parquet files and on the Hub too, at the old size and without a
# word. Methods that return a new picture (resize, crop, convert) are stored as they are; picture.copy() is the way out.
# What one would expect: what is stored is the picture as it was handed over, as NumPy arrays are.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q datasets==5.2.0 pillow==12.3.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/home" venv/bin/python -W ignore - <<'PY'
import datasets
from datasets import Dataset, load_dataset
from PIL import Image, ImageDraw

assert datasets.__version__ == "5.2.0"
datasets.disable_progress_bars()
for name in ("red.jpg", "red.png"):
    Image.new("RGB", (64, 48), "red").save(name)


def smaller(picture):
    picture.thumbnail((16, 16))
    return picture


def blackened(picture):
    ImageDraw.Draw(picture).rectangle((0, 0, 63, 47), fill="black")
    return picture


EDITS = {"thumbnail": smaller, "blackened": blackened, "resized": lambda picture: picture.resize((16, 12)),
         "thumbnail of a copy": lambda picture: smaller(picture.copy())}
for name in ("red.jpg", "red.png"):
    for told, edit in EDITS.items():
        given = edit(Image.open(name))
        rows = Dataset.from_dict({"file": [name]}).map(lambda row: {"image": edit(Image.open(row["file"]))})
        rows.to_parquet("rows.parquet")
        shut = load_dataset("parquet", data_files="rows.parquet", split="train").cast_column("image", datasets.Image())
        seen = [table[0]["image"].convert("RGB") for table in (Dataset.from_dict({"image": [given]}), rows, shut)]
        shown = [f"{one.size}, red {one.getpixel((0, 0))[0]:3}" for one in (given.convert("RGB"), *seen)]
        print(f"{name} {told}: given {shown[0]}; from_dict {shown[1]}; map {shown[2]}; Parquet {shown[3]}")
        lost = told in ("thumbnail", "blackened")
        red = given.convert("RGB").getpixel((0, 0))[0]
        for one in seen:
            kept = one.size == given.size and abs(one.getpixel((0, 0))[0] - red) < 9
            assert kept == (told not in ("thumbnail", "blackened")), "the behaviour changed"
PY
