#!/bin/sh
# moviepy 2.2.1 (frames by imageio-ffmpeg 0.8.1): an MP4 whose frames are not evenly spaced (phones, screen recordings,
# joined clips) is played too slowly and never to its end. ffmpeg repeats frames up to the highest rate in the file,
# moviepy counts what it gets by the average rate: of 1 s at 30 frames a second and 2 s at 15 (60 frames, 89 from ffmpeg,
# 20.2 a second by moviepy) get_frame(2.9) shows frame 44 of 60, and what comes after it is never seen. Sound and captions
# are that much ahead of the picture. imageio's FFMPEG plugin gives 89 frames for 60 in the same way, and says 20.2 a
# second of them. A .mkv of the same frames is right, and so is PyAV. Guess before it was run: get_frame(t) gives the frame
# that is shown at t.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q moviepy==2.2.1 imageio==2.38.1 imageio-ffmpeg==0.8.1 av==18.1.0 pillow==11.3.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from fractions import Fraction
from importlib.metadata import version

import av
import imageio.v3 as imageio
import numpy as np
from moviepy import VideoFileClip

assert (version("moviepy"), version("imageio-ffmpeg")) == ("2.2.1", "0.8.1")
TIMES = {"even": list(range(60)), "uneven": [n if n < 30 else 30 + 2 * (n - 30) for n in range(60)]}


def number(frame):
    return round((float(np.mean(frame)) - 20) / 3)


def write(file, times):
    with av.open(file, "w") as box:
        stream = box.add_stream("libx264", rate=30, options={"crf": "10", "bf": "0"})
        stream.width = stream.height = 64
        stream.time_base = stream.codec_context.time_base = Fraction(1, 30)
        for n, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 + 3 * n, np.uint8), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            box.mux(stream.encode(frame))
        box.mux(stream.encode())


for name, times in TIMES.items():
    for file in (f"{name}.mp4", f"{name}.mkv"):
        write(file, times)
        with av.open(file) as box:
            stored = [(number(frame.to_ndarray(format="rgb24")), frame.time) for frame in box.decode(video=0)]
        assert [n for n, _ in stored] == list(range(60))
        clip = VideoFileClip(file)
        at = [stored[-1][1] * part / 5 for part in range(6)]
        shown = [max(n for n, time in stored if time <= moment + 1e-6) for moment in at]
        got = [number(clip.get_frame(moment)) for moment in at]
        count = len(list(imageio.imiter(file, plugin="FFMPEG")))
        print(f"{file}: {clip.fps} a second, by imageio {count} frames; shown {shown}, by moviepy {got}")
        late = max(abs(one - other) for one, other in zip(shown, got))
        assert (late > 10) == (file == "uneven.mp4"), "the behaviour changed"
        assert late > 10 or late <= 1
        assert (count == 89) == (name == "uneven"), "the behaviour changed"
        clip.close()
PY
