#!/bin/sh
# torchmetrics 1.9.0: TranslationEditRate of an empty caption is 0, the best there is, whatever the reference says; one
# of a wrong word has 1. sacrebleu 2.6.0, whose way of counting it follows otherwise, gives 100 % to both. A model that
# says nothing in half of its rows has half the rate of one that tries. Over a corpus the reference words of such rows
# still count in the divisor, so that silence beside a right caption keeps the rate at 0. What one would expect: 1, for
# every word of the reference is missing.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6 sacrebleu==2.6.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import sacrebleu
from torchmetrics.text import TranslationEditRate

assert (version("torchmetrics"), version("sacrebleu")) == ("1.9.0", "2.6.0")
cases = {
    "equal": (["a dog"], ["a dog"], 0, 0),
    "words turned": (["dog a"], ["a dog"], 0.5, 0.5),
    "a wrong word": (["cat"], ["a dog"], 1, 1),
    "nothing": ([""], ["a dog"], 0, 1),
    "nothing, and a right one": (["", "a cat"], ["a dog", "a cat"], 0, 0.5),
    "a wrong one, and a right one": (["x y", "a cat"], ["a dog", "a cat"], 0.5, 0.5),
}
for name, (told, truth, *expected) in cases.items():
    here = float(TranslationEditRate()(told, [[one] for one in truth]))
    there = sacrebleu.corpus_ter(told, [truth]).score / 100
    print(f"{name}: torchmetrics {here:.2f}, sacrebleu {there:.2f}")
    assert [here, there] == expected, "the behaviour changed"
PY
