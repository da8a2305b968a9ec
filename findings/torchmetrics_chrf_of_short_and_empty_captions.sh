#!/bin/sh
# torchmetrics 1.9.0: CHRFScore is said to follow sacrebleu's, and for long texts does; but n-gram orders that a text is too
# short for count as 0 instead of being left out ("a" against "a" scores 17 of 100, "cat" against "cats" 34 and not 69),
# and in a corpus an empty caption costs nothing: one right and one empty caption score 100.0 (sacrebleu 2.6.0: 80.4).
# Guess before it was run: equal to sacrebleu's corpus_chrf to 1e-4.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 torchmetrics==1.9.0 sacrebleu==2.6.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import sacrebleu
from torchmetrics.text import CHRFScore

assert (version("torchmetrics"), version("sacrebleu")) == ("1.9.0", "2.6.0")
for captions, references, differ in (
    (["a cat sat there on a mat"], ["the cat sat on the mat"], 0.01),
    (["a"], ["a"], 50),
    (["cat"], ["cats"], 20),
    (["", "a red bird sings"], ["the cat", "a red bird sings"], 15),
):
    theirs = CHRFScore(n_word_order=0)(captions, [[one] for one in references]).item() * 100
    other = sacrebleu.corpus_chrf(captions, [references]).score
    print(f"{captions} against {references}: torchmetrics {theirs:.2f}, sacrebleu {other:.2f}")
    assert abs(theirs - other) > differ or (differ < 1 and abs(theirs - other) < differ), "the behaviour changed"
PY
