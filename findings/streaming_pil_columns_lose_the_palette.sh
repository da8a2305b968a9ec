#!/bin/sh
# mosaicml-streaming 0.13.0: a column of kind "pil" stores mode, size and bytes of a picture, and not its palette. A
# picture with a palette (mode P, as GIF and many PNG files are: scans, charts, masks) comes back as mode P with its
# indexes as grey: red, green and blue become three nearly black greys. Nothing is raised. In kind "png" it comes back
# right; so do all other modes in "pil". Kind "jpeg" stores the file that a picture was opened from, and forgets what was
# drawn on it since. Guess before it was run: every mode that "pil" takes comes back as it was.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q --no-deps mosaicml-streaming==0.13.0 pillow==13.0.0 numpy==2.4.6 typing_extensions==4.16.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import importlib.util
from importlib.metadata import distribution

import numpy as np
from PIL import Image, ImageDraw

package = distribution("mosaicml-streaming")  # without its dependencies (torch, cloud clients): its encoders need none
assert package.version == "0.13.0"
where = importlib.util.spec_from_file_location("kinds", package.locate_file("streaming/base/format/mds/encodings.py"))
kinds = importlib.util.module_from_spec(where)
where.loader.exec_module(kinds)


def through(kind, picture):
    return kinds.mds_decode(kind, kinds.mds_encode(kind, picture))


def off(one, other):
    return np.abs(np.asarray(one.convert("RGB")).astype(int) - np.asarray(other.convert("RGB"))).max()


flag = Image.fromarray(np.repeat(np.uint8([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]), 3, 0))
for mode in ("RGB", "RGBA", "L", "LA", "1", "CMYK", "I", "F", "P"):
    picture = flag.convert(mode, palette=Image.Palette.ADAPTIVE, colors=8) if mode == "P" else flag.convert(mode)
    back = through("pil", picture)
    print(f"pil, mode {mode}: {back.mode}, colours differ by {off(back, picture)}; first", back.convert("RGB").getpixel((0, 0)))
    assert back.mode == mode
    assert (off(back, picture) > 200) == (mode == "P"), "the behaviour changed"
assert off(through("png", picture), picture) == 0
flag.resize((48, 48), 0).save("flag.jpg")
picture = Image.open("flag.jpg")
ImageDraw.Draw(picture).rectangle([0, 0, 47, 20], fill=(0, 0, 0))
print("jpeg, drawn on after it was opened: differs by", off(through("jpeg", picture), picture))
assert off(through("jpeg", picture), picture) > 200, "the behaviour changed"
PY
