#!/bin/sh
# pysubs2 1.8.1 reads SubRip text as if it were Advanced SubStation text: what stands in braces is a command to it, and is
# left out of plaintext and of the .srt, .vtt and .txt files that it writes. Subtitles for the deaf put sounds in braces, so
# "{music} A man sings" becomes "A man sings", a cue "{laughs}" an empty one, and in "C:\new" the "\n" a line break. Not a
# word is said. pysrt 1.1.2, srt 3.5.3 and webvtt-py 0.6.0 keep the text.
# What one would expect: SubRip knows no braces, so reading and writing one gives the text of the file.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pysubs2==1.8.1 pysrt==1.1.2 srt==3.5.3 webvtt-py==0.6.0
cd "$work"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version
from pathlib import Path

import pysrt
import pysubs2
import srt
import webvtt

assert version("pysubs2") == "1.8.1"
texts = ["{music} A man sings", "{laughs}", r"C:\new", "[door] Come in"]
film = Path("film.srt")
film.write_text("".join(f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\n{text}\n\n" for n, text in enumerate(texts, 1)))
read = pysubs2.load("film.srt")
read.save("again.srt")
found = {
    "pysubs2": [line.plaintext for line in read],
    "pysubs2, written as .srt": [cue.content for cue in srt.parse(Path("again.srt").read_text())],
    "pysrt": [cue.text for cue in pysrt.open("film.srt")],
    "srt": [cue.content for cue in srt.parse(film.read_text())],
    "webvtt-py": [cue.text for cue in webvtt.from_srt("film.srt")],
}
for name, seen in found.items():
    print(f"{name:25}{seen}")
    kept = [" A man sings", "", "C:\new", texts[3]]
    kept = [text.strip() for text in kept] if "written" in name else kept
    assert seen == (kept if "pysubs2" in name else texts), "the behaviour changed"
PY
