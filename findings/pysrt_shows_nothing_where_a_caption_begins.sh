#!/bin/sh
# pysrt 1.1.2: subs.at(seconds=1) gives the captions that are visible then, but not one that begins or ends at just that
# time: in a film whose captions are 0 to 1, 1 to 2 and 2 to 3 s there is none at 0, 1, 2 and 3 s, and one at each half
# second. Frames that are taken once a second out of a film with captions at whole seconds (lyrics, lectures, machine-made
# captions) have no caption at all, and a first caption at 0 is not there at the first frame.
# Guess before it was run: a caption counts from its begin on, as in a player.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pysrt==1.1.2
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import pysrt

assert version("pysrt") == "1.1.2"
file = "".join(f"{n + 1}\n00:00:0{n},000 --> 00:00:0{n + 1},000\ncaption {n}\n\n" for n in range(3))
captions = pysrt.from_string(file)
found = {}
for time in (0, 1, 500, 1000, 1001, 1500, 2000, 2500, 3000):
    found[time] = [caption.text for caption in captions.at(milliseconds=time)]
    print(f"at {time / 1000} s: {found[time]}")
for time, texts in found.items():
    shown = [] if time % 1000 == 0 else [f"caption {time // 1000}"]
    assert texts == shown, "the behaviour changed"
PY
