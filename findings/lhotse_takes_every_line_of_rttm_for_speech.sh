#!/bin/sh
# lhotse 1.33.0: SupervisionSet.from_rttm takes each line of an RTTM file for somebody's speech. In the files of NIST, for
# which the format was made, SPEAKER lines are speech; LEXEME lines are words within it, so that mary speaks twice at
# once, and a NON-SPEECH line (noise, music) becomes speech of a speaker "<NA>". meeteval 0.4.3 keeps the kind of a line
# beside it. A SPKR-INFO line, which says of a speaker whether it is a man or a woman and has no times, ends both in an
# error about a number that does not name the line. Guess before it was run: SPEAKER lines, and the others left out.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 lhotse==1.33.0 urllib3==2.8.0 meeteval==0.4.3 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version
from pathlib import Path

import meeteval
from lhotse import SupervisionSet

assert (version("lhotse"), version("meeteval")) == ("1.33.0", "0.4.3")
lines = [
    "SPEAKER talk 1 0.0 0.5 <NA> <NA> mary <NA> <NA>",
    "LEXEME talk 1 0.0 0.3 hello lex mary <NA> <NA>",
    "NON-SPEECH talk 1 0.5 0.3 <NA> noise <NA> <NA> <NA>",
]
Path("talk.rttm").write_text("\n".join(lines) + "\n")
speech = [(one.start, one.duration, one.speaker) for one in SupervisionSet.from_rttm("talk.rttm")]
kinds = [(line.type, line.speaker_id) for line in meeteval.io.load("talk.rttm")]
print("lhotse:", speech, "meeteval:", kinds)
assert speech == [(0.0, 0.5, "mary"), (0.0, 0.3, "mary"), (0.5, 0.3, "<NA>")], "the behaviour changed"
assert [kind for kind, _ in kinds] == ["SPEAKER", "LEXEME", "NON-SPEECH"]
lines.insert(0, "SPKR-INFO talk 1 <NA> <NA> <NA> adult_female mary <NA> <NA>")
Path("talk.rttm").write_text("\n".join(lines) + "\n")
for name, read in (("lhotse", SupervisionSet.from_rttm), ("meeteval", meeteval.io.load)):
    try:
        found = list(read("talk.rttm"))
    except Exception as fault:
        print(f"{name} with a SPKR-INFO line: {type(fault).__name__}: {fault}")
    else:
        raise AssertionError(f"the behaviour changed: {name} reads {found}")
PY
