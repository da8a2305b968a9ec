#!/bin/sh
# torchmetrics 1.9.0: SacreBLEUScore is not the score of sacrebleu where n-grams of one length never match: as both are
# made it is 0 where sacrebleu 2.6.0 has 42.7 ("a dog runs so fast" for "a dog runs very fast"), since sacrebleu
# smooths unless told otherwise. smooth=True is another way of smoothing, which also changes pairs that need none: 78.0
# for 75.1. So no setting gives sacrebleu's number for both, and short captions or small test sets are not comparable
# with what papers report by that name. Where all lengths match, the two agree by default. What one would expect: the
# numbers of sacrebleu.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6 sacrebleu==2.6.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import sacrebleu
from torchmetrics.text import SacreBLEUScore

assert (version("torchmetrics"), version("sacrebleu")) == ("1.9.0", "2.6.0")
pairs = {
    ("a dog runs so fast", "a dog runs very fast"): [0.0, 0.0, 42.7],
    ("a small red dog runs over the wet grass", "a small red dog runs over the dry grass"): [75.1, 78.0, 75.1],
}
for (told, truth), expected in pairs.items():
    found = [100 * float(SacreBLEUScore(smooth=smooth)([told], [[truth]])) for smooth in (False, True)]
    found = [round(one, 1) for one in (*found, sacrebleu.corpus_bleu([told], [[truth]]).score)]
    print(f"{told!r}: {found[0]} by default, {found[1]} with smooth=True, {found[2]} by sacrebleu")
    assert found == expected, "the behaviour changed"
PY
