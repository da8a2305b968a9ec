#!/bin/sh
# num2words 0.5.14 (numbers as a voice says them, for text of speech): -0.5 is "zero point five" in English and "null Komma
# fünf" in German: numbers between -1 and 0 lose their minus in nearly every language, while -1.5 keeps it. In Vietnamese
# whole numbers do too, in their own way (-7 is "mười ba", thirteen), and in Bengali (-7 is seven). Behind the point zeros
# are lost: 1.05 is "one point five" in Vietnamese, Turkish and Bengali (1.5 itself is "one point fifty" in the first two),
# and "one and a half" in Persian. Nothing is raised. Guess before it was run: each number is said as it is.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q num2words==0.5.14
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from num2words import CONVERTER_CLASSES, num2words

assert version("num2words") == "0.5.14"
SAID = {
    ("en", -0.5): "zero point five",
    ("en", -1.5): "minus one point five",
    ("de", -0.5): "null Komma fünf",
    ("de", -1.5): "minus eins Komma fünf",
    ("de", 1.05): "eins Komma null fünf",
    ("vi", -7): "mười ba",
    ("vi", 13): "mười ba",
    ("vi", 1.05): "một phẩy năm",
    ("vi", 1.5): "một phẩy năm mươi",
    ("tr", 1.05): "birvirgülbeş",
    ("tr", 1.5): "birvirgülelli",
    ("bn", -7): num2words(7, lang="bn"),
    ("bn", 1.05): num2words(1.5, lang="bn"),
    ("fa", 1.05): num2words(1.5, lang="fa"),
}
for (language, number), wanted in SAID.items():
    said = num2words(number, lang=language)
    print(f"{number} in {language}: {said}")
    assert said == wanted, "the behaviour changed"
lost, kept = [], []
for language in sorted(CONVERTER_CLASSES):
    try:
        (lost if num2words(-0.5, lang=language) == num2words(0.5, lang=language) else kept).append(language)
    except (NotImplementedError, ValueError, TypeError, KeyError, IndexError):
        continue
print("-0.5 loses its minus in", *lost, "and keeps it in", *kept)
assert len(lost) > 30 and len(lost) > 5 * len(kept), "the behaviour changed"
PY
