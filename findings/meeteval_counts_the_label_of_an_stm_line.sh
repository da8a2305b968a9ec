#!/bin/sh
# meeteval 0.4.3: a line of an STM file may have a label in angle brackets between its end time and its words,
# <o,f0,male>, and the files of TED-LIUM and of NIST's evaluations have one in each line. meeteval takes it for a word:
# each line of the reference has one word more, which no system says. A perfect transcript of two lines of two words has a
# word error rate of 33 %, a system that says nothing one of 100 % of six words. NIST's sclite and the format's
# description leave the label out. Guess before it was run: the label is no word.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q meeteval==0.4.3 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version
from pathlib import Path

import meeteval

assert version("meeteval") == "0.4.3"
LINES = (("0.0 1.0", "hello there"), ("1.0 2.0", "good bye"))
rates = {}
for label in ("", "<o,f0,male> "):
    Path("reference.stm").write_text("".join(f"talk 1 speaker {times} {label}{words}\n" for times, words in LINES))
    Path("system.stm").write_text("".join(f"talk 1 speaker {times} {words}\n" for times, words in LINES))
    reference, system = (meeteval.io.load(name) for name in ("reference.stm", "system.stm"))
    for name in ("cpwer", "orcwer"):
        rate = getattr(meeteval.wer, name)(reference, system)["talk"]
        print(f"label {label!r}, {name} of a perfect transcript: {rate.errors} errors of {rate.length} words")
        rates[label, name] = rate.errors, rate.length
    print("words of the first line:", list(reference)[0].transcript.split())
for name in ("cpwer", "orcwer"):
    assert rates["", name] == (0, 4)
    assert rates["<o,f0,male> ", name] == (2, 6), "the behaviour changed"
PY
