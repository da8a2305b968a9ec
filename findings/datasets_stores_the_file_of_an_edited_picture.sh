#!/bin/sh
# datasets 5.2.0: an Image column takes a Pillow picture that was opened from a file as that file, and forgets what was done
# to the picture in place, by thumbnail() or by drawing on it (a face blackened out).
# from_dict, and map() in the same way, give the file's own pixels at the old size, without a word. Methods that return a
# new picture (resize, crop, convert) are stored as they are; picture.copy() before the edit is the way out.
# What one would expect: what is stored is the picture as it was handed over, as NumPy arrays are.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q datasets==5.2.0 pillow==12.3.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/home" venv/bin/python -W ignore - <<'PY'
import datasets
from datasets import Dataset
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
        read = Dataset.from_dict({"image": [given]})[0]["image"].convert("RGB")
        given = given.convert("RGB")
        reds = [one.getpixel((0, 0))[0] for one in (given, read)]
        print(f"{name}, {told}: given {given.size}, red {reds[0]}; read back {read.size}, red {reds[1]}")
        kept = read.size == given.size and abs(reds[0] - reds[1]) < 9
        assert kept == (told not in ("thumbnail", "blackened")), "the behaviour changed"
PY
