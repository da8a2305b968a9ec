#!/bin/sh
# sacrebleu 2.6.0: corpus BLEU depends on how large the corpus is, not only on how good it is, where n-grams of one length
# never match. Its default smoothing ("exp") counts half a match there, for the whole corpus: "a dog runs so fast" for
# "a dog runs very fast" has BLEU 42.7 once, 35.9 when the same pair comes twice and 13.5 when it comes a hundred times. So
# a small model's captions, short commands or a test set of few words score less on more of the same data, and halves of a
# corpus both score more than the whole.
# Guess before it was run: sums of counts in a ratio, so that a corpus twice has the BLEU of the corpus once.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q sacrebleu==2.6.0
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import sacrebleu

assert version("sacrebleu") == "2.6.0"
told, truth = "a dog runs so fast", "a dog runs very fast"
for smooth, falls in (("exp", True), ("none", False)):
    found = [sacrebleu.corpus_bleu([told] * n, [[truth] * n], smooth_method=smooth).score for n in (1, 2, 100)]
    print(f"smoothing {smooth}: BLEU of the pair once, twice, a hundred times:", *(f"{one:.1f}" for one in found))
    assert (found[0] > found[1] > found[2]) == falls, "the behaviour changed"
    assert not falls or abs(found[0] / found[2] - 100**0.25) < 1e-6, "the behaviour changed"
long, other = "a small red dog runs over the wet grass", "a small red dog runs over the dry grass"
found = [sacrebleu.corpus_bleu([long] * n, [[other] * n]).score for n in (1, 100)]
print("where n-grams of every length match:", *(f"{one:.1f}" for one in found))
assert abs(found[0] - found[1]) < 1e-6, "the behaviour changed"
PY
