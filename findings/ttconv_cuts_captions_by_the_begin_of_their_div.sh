#!/bin/sh
# ttconv 1.2.3 (TTML/IMSC to SubRip, WebVTT, SCC): times in a <div> or <body> that has a begin and no end count from that
# begin, and ttconv does count so, but it takes the end of the last caption for the end of the <div> without adding the begin:
# captions behind it are cut or gone. With begin="10s" a caption of 1 to 2 s is gone, the file is empty, and one of 3 to 40 s
# is 13 to 40 and not 13 to 50. Nothing is said. With an end at the <div> all are right; pysubs2 1.8.1 reads both.
# Guess before it was run: the begin is added to both times of each caption.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q ttconv==1.2.3 pysubs2==1.8.1
cd "$work"
venv/bin/python - <<'PY'
import re
import xml.etree.ElementTree as tree
from importlib.metadata import version

import pysubs2
from ttconv.imsc.reader import to_model
from ttconv.srt.writer import from_model

assert (version("ttconv"), version("pysubs2")) == ("1.2.3", "1.8.1")


def read(div, *captions):
    body = "".join(f'<p begin="{begin}s" end="{end}s">a dog</p>' for begin, end in captions)
    text = f'<tt xmlns="http://www.w3.org/ns/ttml" xml:lang="en"><body><div {div}>{body}</div></body></tt>'
    written = from_model(to_model(tree.ElementTree(tree.fromstring(text))))
    times = [[60 * int(one) + int(two) for one, two in re.findall(r"00:(\d\d):(\d\d)", line)] for line in written.split("\n")]
    right = [[cue.start // 1000, cue.end // 1000] for cue in pysubs2.SSAFile.from_string(text)]
    print(f"<div {div}> with captions {captions}: {[one for one in times if one]}, by pysubs2 {right}")
    return [one for one in times if one], right


assert read('begin="10s"', (1, 2)) == ([], [[11, 12]]), "the behaviour changed"
assert read('begin="10s"', (1, 2), (3, 40)) == ([[11, 12], [13, 40]], [[11, 12], [13, 50]]), "the behaviour changed"
assert read('begin="10s" end="60s"', (1, 2), (3, 40)) == ([[11, 12], [13, 50]],) * 2
assert read("", (1, 2), (3, 40)) == ([[1, 2], [3, 40]],) * 2
PY
