#!/bin/sh
# pycaption 2.3.14: DFXPReader keeps of each piece of text in a TTML file what stands before its first line break, and drops
# the rest. A line break in XML text is white space, and tools that indent XML put them there: "a dog runs", broken
# after "dog", is read as "a dog", and so are what stands before and behind a <br/> and inside a <span>. Nothing is
# said, and what is written from it (SubRip, WebVTT) lacks the words too. pysubs2 1.8.1 and ttconv 1.2.3 read them all.
# What one would expect: the same words, wherever the lines of the file end.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pycaption==2.3.14 pysubs2==1.8.1
cd "$work"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import pysubs2
from pycaption import DFXPReader

assert (version("pycaption"), version("pysubs2")) == ("2.3.14", "1.8.1")


def read(words):
    cue = f'<p begin="1s" end="2s">{words}</p>'
    text = f'<tt xmlns="http://www.w3.org/ns/ttml" xml:lang="en"><body><div>{cue}</div></body></tt>'
    found = [caption.get_text().split() for caption in DFXPReader().read(text).get_captions("en")][0]
    right = pysubs2.SSAFile.from_string(text)[0].plaintext.split()
    print(f"{words!r}: {found}, by pysubs2 {right}")
    return found, right


assert read("a dog runs") == (["a", "dog", "runs"],) * 2
assert read("\n  a dog runs\n  ") == (["a", "dog", "runs"],) * 2
assert read("a dog\n  runs") == (["a", "dog"], ["a", "dog", "runs"]), "the behaviour changed"
assert read("a\n  dog<br/>runs\n  fast") == (["a", "runs"], ["a", "dog", "runs", "fast"]), "the behaviour changed"
assert read("a <span>dog\n  runs</span> fast") == (["a", "dog", "fast"], ["a", "dog", "runs", "fast"]), "the behaviour changed"
PY
