#!/bin/sh
# A label of a Praat TextGrid may hold a line break (Praat writes it as it is, inside the quotes). tgt 1.5 raises
# IndexError for a whole file with one such label; TextGrid 1.6.1 and praatio 6.2.2 read it. The error does not say
# which line it is about. Doubled quotes inside a label are read alike by all three.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q tgt==1.5 numpy==2.4.6 TextGrid==1.6.1 praatio==6.2.2
cd "$work"
venv/bin/python -W ignore - <<'PY'
from pathlib import Path

import tgt
from praatio import textgrid as praatio
from textgrid import TextGrid


def write(labels):
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {len(labels)} ",
        "tiers? <exists> ", "size = 1 ", "item []: ", "    item [1]:", '        class = "IntervalTier" ',
        '        name = "words" ', "        xmin = 0 ", f"        xmax = {len(labels)} ",
        f"        intervals: size = {len(labels)} ",
    ]
    for number, label in enumerate(labels, 1):
        lines += [f"        intervals [{number}]:", f"            xmin = {number - 1} ", f"            xmax = {number} "]
        lines += [f'            text = "{label}" ']
    Path("speech.TextGrid").write_text("\n".join(lines) + "\n")


READERS = {
    "tgt": lambda: [one.text for one in tgt.read_textgrid("speech.TextGrid").tiers[0]],
    "TextGrid": lambda: [one.mark for one in TextGrid.fromFile("speech.TextGrid")[0]],
    "praatio": lambda: [
        one.label for one in praatio.openTextgrid("speech.TextGrid", includeEmptyIntervals=True).getTier("words").entries
    ],
}


def read():
    found = {}
    for name, reader in READERS.items():
        try:
            found[name] = reader()
        except Exception as fault:
            found[name] = type(fault).__name__
    print(found)
    return found


write(['say ""hi""', "now"])
assert read() == dict.fromkeys(READERS, ['say "hi"', "now"]), "the behaviour changed"
write(["two\nlines", "now"])
assert read() == {"tgt": "IndexError", **dict.fromkeys(("TextGrid", "praatio"), ["two\nlines", "now"])}, "the behaviour changed"
PY
