#!/bin/sh
# imageio 2.38.1: a PNG with a palette comes back as RGB, also where the palette has transparent colours; so does the
# pixel that nobody was to see, black or whatever colour the program left there. The same picture with an alpha channel
# comes back as RGBA. Icons, logos, charts and everything that pngquant went over are such files: of one set of pictures
# some have four channels and the rest a background that is no part of them. OpenCV 5.0.0 and Pillow's convert("RGBA")
# keep it, and so does mode="RGBA".
# Guess before it was run: RGBA for both, since there is no mode in it that could not hold the transparency.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q imageio==2.38.1 pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import cv2
import imageio.v2
import imageio.v3
import numpy as np
from PIL import Image

assert (version("imageio"), version("pillow")) == ("2.38.1", "13.0.0")
logo = Image.new("RGBA", (8, 8), (255, 0, 255, 0))
logo.paste((200, 90, 0, 255), (2, 2, 6, 6))
logo.save("channel.png")
indexes = Image.fromarray((np.asarray(logo)[..., 3] > 0).astype("uint8"))
indexes.putpalette([255, 0, 255, 200, 90, 0])
indexes.save("palette.png", transparency=0)
assert (np.asarray(Image.open("palette.png").convert("RGBA")) == np.asarray(logo)).all()
for name in ("channel.png", "palette.png"):
    read = [imageio.v3.imread(name), imageio.v2.imread(name), imageio.v3.imread(name, mode="RGBA"), cv2.imread(name, -1)]
    print(name, "shapes", [pixels.shape for pixels in read], "corner as imageio reads it:", read[0][0, 0].tolist())
    channels = [pixels.shape[2] for pixels in read]
    assert channels == ([4, 4, 4, 4] if name == "channel.png" else [3, 3, 4, 4]), "the behaviour changed"
assert imageio.v3.imread("palette.png")[0, 0].tolist() == [255, 0, 255], "the behaviour changed"
PY
