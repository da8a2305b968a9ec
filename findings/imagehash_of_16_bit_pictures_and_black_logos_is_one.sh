#!/bin/sh
# ImageHash 4.3.2 (Pillow 13.0.0): all pictures of 16 bits whose numbers are above 255, as depth maps, X-ray pictures and
# scans are, have one and the same phash, dhash, average_hash and whash: the picture is brought to 8 bits by cutting it
# off, and is white. So have all black drawings on a transparent ground (logos, icons, signatures), since the transparency
# is taken off and black is what lies under it. A search for duplicates keeps one of them. Two random pictures of 8 bits
# differ in about half of the 64 bits.
# Guess before it was run: different pictures differ, in 16 bits as in 8, and by what one sees of them.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q ImageHash==4.3.2 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import imagehash
import numpy as np
from PIL import Image, ImageDraw

assert (version("ImageHash"), version("pillow")) == ("4.3.2", "13.0.0")
chance = np.random.default_rng(0)


def logo(shape, box):
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    getattr(ImageDraw.Draw(picture), shape)(box, fill=(0, 0, 0, 255))
    return picture


def on_white(picture):
    return Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255, 255)), picture)


depths = [chance.integers(300, 65535, (64, 64)).astype(np.uint16) for _ in range(2)]
logos = [logo("rectangle", (5, 5, 25, 60)), logo("ellipse", (20, 30, 60, 50))]
PAIRS = {
    "16 bits": [Image.fromarray(depth) for depth in depths],
    "the same in 8 bits": [Image.fromarray((depth >> 8).astype(np.uint8)) for depth in depths],
    "black logos": logos,
    "the same on white": [on_white(picture) for picture in logos],
}
for name, (first, second) in PAIRS.items():
    hashes = (imagehash.phash, imagehash.dhash, imagehash.average_hash, imagehash.whash)
    distances = [int(hashed(first) - hashed(second)) for hashed in hashes]
    print(f"{name}: distances of phash, dhash, average_hash and whash {distances}")
    if name in ("16 bits", "black logos"):
        assert distances == [0, 0, 0, 0], "the behaviour changed"
    else:
        assert min(distances) > 5
PY
