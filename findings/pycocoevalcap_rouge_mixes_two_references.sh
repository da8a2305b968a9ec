#!/bin/sh
# pycocoevalcap 1.2 (the COCO caption metrics): ROUGE-L takes the best precision of all references and the best recall of
# all references, also of two different ones, so that a caption can be perfect though it is equal to none: "a dog runs"
# has 0.83 with the reference "a dog", 0.50 with "a dog runs fast in the big park", and 1.00 with both. Scores rise
# with the number of references and are no longer those of any of them; rouge-score takes the reference of the best F.
# What one would expect: the best of the references, 0.83.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q numpy==2.4.6
"$work/venv/bin/pip" --disable-pip-version-check install -q --no-deps pycocoevalcap==1.2
"$work/venv/bin/python" -W error - <<'PY'
from importlib.metadata import version

from pycocoevalcap.rouge.rouge import Rouge

assert version("pycocoevalcap") == "1.2"
told, short, long = "a dog runs", "a dog", "a dog runs fast in the big park"
found = []
for references in ([short], [long], [short, long]):
    mean, each = Rouge().compute_score({0: references}, {0: [told]})
    print(f"{told!r} with {references}: ROUGE-L {mean:.2f}")
    found.append(mean)
assert found[0] < 0.84 and found[1] < 0.51 and found[2] == 1, "the behaviour changed"
PY
