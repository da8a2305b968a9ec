#!/bin/sh
# nltk 3.10.4: sentence_bleu with SmoothingFunction().method5 or method7 gives more than 1 for a caption that is equal to
# its reference: 1.117 for five words, 1.011 (method5) for four. One of three words that is equal has .703, less than one
# of five words of which the last is wrong, .705. The mean of three equal captions and a wrong one is above 1, and
# captions that are equally right are ranked by their length. Methods 1, 2, 3 and 4 end at 1, but give equal captions of
# two words .32, .71, .60 and .22. Guess before it was run: 1 for equal texts, and nothing above it.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q nltk==3.10.4
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

assert version("nltk") == "3.10.4"
words = "a dog runs so fast".split()
found = {}
for number in (1, 2, 3, 4, 5, 7):
    method = getattr(SmoothingFunction(), f"method{number}")
    equal = {length: sentence_bleu([words[:length]], words[:length], smoothing_function=method) for length in (2, 3, 4, 5)}
    wrong = sentence_bleu([words], words[:4] + ["slow"], smoothing_function=method)
    found[number] = {length: round(score, 3) for length, score in equal.items()}, round(wrong, 3)
    print(f"method{number}: equal texts of 2 to 5 words {found[number][0]}, five words with one wrong {wrong:.3f}")
for number in (5, 7):
    assert found[number][0][5] == 1.117, "the behaviour changed"
assert found[5] == ({2: 0.39, 3: 0.703, 4: 1.011, 5: 1.117}, 0.705), "the behaviour changed"
for number, short in ((1, 0.316), (2, 0.707), (3, 0.595), (4, 0.221)):
    assert found[number][0][2] == short and found[number][0][5] == 1, "the behaviour changed"
PY
