#!/bin/sh
# pyannote.database 6.1.1: load_rttm takes the names of speakers and files in an RTTM file for missing values where pandas
# does: speakers "NA", "nan" and "null" become one speaker, the number nan, so that diarization error rates compare one
# speaker where there are three, and a recording called "NA" is left out of the answer. Nothing is raised. Names such as
# "007" stay strings. What one would expect: each name is a name; RTTM writes what is missing as <NA>, in angle brackets.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pyannote.database==6.1.1 numpy==2.4.6
cd "$work"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version
from pathlib import Path

from pyannote.database.util import load_rttm

assert version("pyannote.database") == "6.1.1"
turns = [("talk", name) for name in ("NA", "nan", "null", "007", "Anna")] + [("NA", "Anna")]
lines = [f"SPEAKER {file} 1 {start} 1.0 <NA> <NA> {name} <NA> <NA>\n" for start, (file, name) in enumerate(turns)]
Path("turns.rttm").write_text("".join(lines))
read = load_rttm("turns.rttm")
names = [label for _, _, label in read["talk"].itertracks(yield_label=True)]
print("files written: talk, NA; read:", list(read))
print("speakers of talk written:", [name for file, name in turns if file == "talk"], "read:", names)
print("speakers counted in talk:", len(read["talk"].labels()))
assert list(read) == ["talk"] and len(read["talk"].labels()) == 3, "the behaviour changed"
assert all(isinstance(name, float) for name in names[:3]) and names[3:] == ["007", "Anna"], "the behaviour changed"
PY
