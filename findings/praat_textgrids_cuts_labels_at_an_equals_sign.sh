#!/bin/sh
# praat-textgrids 1.4.0 (import textgrids) reads of a label what stands before its first " = ": "f = ma" is "f"; praatio
# 6.2.2 reads the whole. Quotation marks in a label, which Praat doubles, stay doubled, and one at the end or the
# beginning of the label is lost: he said "hi" is read as he said ""hi. Written again that is a label with an odd number
# of marks, which praatio reads as he said "hi. So each pass through the library changes labels; nothing is raised.
# Guess before it was run: both labels as they were.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q praat-textgrids==1.4.0 praatio==6.2.2
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version
from pathlib import Path

import textgrids
from praatio import textgrid as praatio

assert (version("praat-textgrids"), version("praatio")) == ("1.4.0", "6.2.2")


def write(label):
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", "xmax = 2 ", "tiers? <exists> ",
        "size = 1 ", "item []: ", "    item [1]:", '        class = "IntervalTier" ', '        name = "words" ',
        "        xmin = 0 ", "        xmax = 2 ", "        intervals: size = 2 ",
    ]
    for number, text in enumerate((label.replace('"', '""'), "end"), 1):
        lines += [f"        intervals [{number}]:", f"            xmin = {number - 1} ", f"            xmax = {number} "]
        lines += [f'            text = "{text}" ']
    Path("speech.TextGrid").write_text("\n".join(lines) + "\n")


def other(name):
    return [one.label for one in praatio.openTextgrid(name, includeEmptyIntervals=True).getTier("words").entries]


found = {}
for label in ("a dog", "f = ma", 'he said "hi"', '"hi" he said'):
    write(label)
    assert other("speech.TextGrid") == [label, "end"]
    grid = textgrids.TextGrid("speech.TextGrid")
    found[label] = str(grid["words"][0].text)
    grid.write("again.TextGrid")
    try:
        again = other("again.TextGrid")
    except Exception as fault:
        again = type(fault).__name__
    print(f"{label!r} is read as {found[label]!r}, and after it was written praatio reads {again}")
    assert (again == [label, "end"]) is (found[label] == label), "the behaviour changed"
assert found["a dog"] == "a dog" and found["f = ma"] == "f", "the behaviour changed"
assert found['he said "hi"'] == 'he said ""hi', "the behaviour changed"
PY
