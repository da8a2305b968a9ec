#!/bin/sh
# WebVTT writes & and < as &amp; and &lt; in the text of a cue. webvtt-py 0.6.0 and pysubs2 1.8.1 take the tags out of
# the text and leave these escapes in, so that a caption reads "Tom &amp; Jerry"; pycaption 2.3.14 turns them back, and
# puts the speaker of a <v> tag before the text, which the other two drop. A video captioner that is trained on such
# texts writes "&amp;".
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q webvtt-py==0.6.0 pysubs2==1.8.1 pycaption==2.3.14
cd "$work"
venv/bin/python -W ignore - <<'PY'
from pathlib import Path

import pycaption
import pysubs2
import webvtt

cues = "WEBVTT\n\n00:01.000 --> 00:02.000\nTom &amp; Jerry <i>run</i>\n\n00:02.000 --> 00:03.000\n<v Mary>I &lt;3 you\n"
Path("film.vtt").write_text(cues)
read = {
    "webvtt-py": [cue.text for cue in webvtt.read("film.vtt")],
    "pysubs2": [event.plaintext for event in pysubs2.load("film.vtt")],
    "pycaption": [cue.get_text() for cue in pycaption.WebVTTReader().read(cues).get_captions("en-US")],
}
for name, texts in read.items():
    print(f"{name:12}{texts}")
kept = ["Tom &amp; Jerry run", "I &lt;3 you"]
assert read["webvtt-py"] == read["pysubs2"] == kept, "the behaviour changed"
assert read["pycaption"] == ["Tom & Jerry run", "Mary: I <3 you"], "the behaviour changed"
PY
