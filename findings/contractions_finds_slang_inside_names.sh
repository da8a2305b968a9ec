#!/bin/sh
# contractions 0.1.73: fix() takes a part of a name for slang where a point, a hyphen or an apostrophe follows: "U.S."
# becomes "YOU.S.", "U-Net" "YOU-Net", and "somebody's dog" "somebody is dog"; "5 o'clock" is "5 of the clock" and "vitamin
# U" "vitamin YOU". Captions, transcripts and references that are normalised so hold words that nobody wrote.
# fix(slang=False) leaves U alone, but not the other two. "John's dog" and "EU" stay as they are. Guess before it was run:
# words without a contraction come back as they were.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q contractions==0.1.73
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import contractions

assert version("contractions") == "0.1.73"
FIXED = {
    "the U.S. army": "the YOU.S. army",
    "a U-Net": "a YOU-Net",
    "vitamin U": "vitamin YOU",
    "somebody's dog": "somebody is dog",
    "at 5 o'clock": "at 5 of the clock",
    "John's dog": "John's dog",
    "the EU": "the EU",
    "he can't": "he cannot",
}
for text, wanted in FIXED.items():
    plain, named = contractions.fix(text), contractions.fix(text, slang=False)
    print(f"{text!r} becomes {plain!r}, with slang=False {named!r}")
    assert plain == wanted, "the behaviour changed"
    assert "YOU" not in named
PY
