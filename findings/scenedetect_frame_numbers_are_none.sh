#!/bin/sh
# PySceneDetect 0.7.2: frame numbers of scenes (frame_num, and what goes into frames[start:end]) are seconds times a rate,
# and in a film with uneven frame times they are numbers of no frame: a cut at the 40th of 90 frames is 49 by the OpenCV
# reader and 60 by PyAV's, whose last scene ends at frame 110 of 90. The seconds are right in both. With even frame times
# all agree. The property's documentation calls it an approximation for such films; the two readers have two of them. Guess
# before it was run: 40 by both, since the frames are read one by one.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q scenedetect==0.7.2 opencv-python-headless==5.0.0.93 av==18.1.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from fractions import Fraction
from importlib.metadata import version

import av
import numpy as np
from scenedetect import ContentDetector, detect

assert version("scenedetect") == "0.7.2"
av.logging.set_level(av.logging.ERROR)
TIMES = {"even": list(range(90)), "uneven": [2 * n if n < 20 else 20 + n for n in range(90)]}
shots = np.kron(np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8), np.ones((1, 16, 16, 1), np.uint8))
for name, times in TIMES.items():
    with av.open(f"{name}.mp4", "w") as box:
        stream = box.add_stream("libx264", rate=30, options={"crf": "10", "bf": "0"})
        stream.width = stream.height = 128
        stream.time_base = stream.codec_context.time_base = Fraction(1, 30)
        for n, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(shots[int(n >= 40)], "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    for reader, numbers in (("opencv", (49, 90)), ("pyav", (60, 110))):
        first, second = detect(f"{name}.mp4", ContentDetector(), backend=reader)
        got = second[0].frame_num, second[1].frame_num
        print(f"{name}, {reader}: cut at frame {got[0]} of 90, the last scene ends at {got[1]}; {second[0].seconds:.3f} s")
        assert abs(second[0].seconds - times[40] / 30) < 1e-3
        assert first[1].frame_num == got[0]
        assert got == (numbers if name == "uneven" else (40, 90)), "the behaviour changed"
PY
