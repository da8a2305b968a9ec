#!/bin/sh
# moviepy 2.2.1 with imageio-ffmpeg 0.8.1 (ffmpeg 9): a film that says that it is to be turned by 90 degrees, as those of
# phones held upright do, comes out scrambled: ffmpeg turns the frames, moviepy does not find the turn in what this ffmpeg
# writes about the file, and cuts the numbers into rows of the old width. Two rows lie side by side in each. Size and
# number of frames look right, and nothing is raised. imageio-ffmpeg's own reader and imageio give the frames upright;
# turned by 180 degrees moviepy does too. Guess before it was run: upright, or at worst lying on its side.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q moviepy==2.2.1 imageio==2.38.1 imageio-ffmpeg==0.8.1 av==18.1.0 pillow==11.3.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import subprocess
from importlib.metadata import version

import av
import imageio.v3 as imageio
import imageio_ffmpeg
import numpy as np
from moviepy import VideoFileClip
from PIL import Image

assert (version("moviepy"), version("imageio-ffmpeg")) == ("2.2.1", "0.8.1")
coarse = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
picture = np.asarray(Image.fromarray(coarse).resize((64, 32), Image.Resampling.NEAREST))
with av.open("lying.mp4", "w") as box:
    stream = box.add_stream("libx264", rate=30, options={"crf": "5"})
    stream.width, stream.height = 64, 32
    for _ in range(10):
        box.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
    box.mux(stream.encode())


def off(frame):
    """The smallest difference from the picture, turned and mirrored in every way."""
    ways = [np.rot90(one, turns) for one in (picture, picture[:, ::-1]) for turns in range(4)]
    return min(np.abs(frame.astype(int) - way).mean() for way in ways if way.shape == frame.shape)


for turn in (0, 90, 180, 270):
    file = f"turned{turn}.mp4"
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-display_rotation", str(turn), "-i", "lying.mp4",
                    "-c", "copy", file], check=True)
    with VideoFileClip(file) as clip:
        frame = clip.get_frame(0)
    other = imageio.imread(file, index=0, plugin="FFMPEG")
    print(f"turned by {turn}: moviepy {frame.shape} off by {off(frame):.0f}, imageio {other.shape} by {off(other):.0f}")
    assert off(other) < 25
    assert (off(frame) > 40) == (turn in (90, 270)), "the behaviour changed"
PY
