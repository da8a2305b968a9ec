#!/bin/sh
# whisper-normalizer 0.1.15 (the English rules that Whisper's word error rates are counted with): the minus of a written
# number goes, that of a spoken one is made: "-5 degrees" becomes "5 degrees" and "minus five degrees" "-5 degrees". So a
# transcript with the wrong sign has no error, and the right one in words has. In the same way "1.000" becomes "one", "one
# and a half cups" "one.5 cups", and the O of a name or an "oh" the digit 0 ("O'Brien" is "0 brien").
# Guess before it was run: "-5 degrees" and "minus five degrees" become equal; a number never becomes a word.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q whisper-normalizer==0.1.15
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

from whisper_normalizer.english import EnglishTextNormalizer

assert version("whisper-normalizer") == "0.1.15"
normal = EnglishTextNormalizer()
for text, seen in {
    "-5 degrees": "5 degrees",
    "minus five degrees": "-5 degrees",
    "1.000": "one",
    "one and a half cups": "one.5 cups",
    "three and a half percent": "3.5%",
    "oh no": "0 no",
    "O'Brien": "0 brien",
}.items():
    print(f"{text!r} becomes {normal(text)!r}")
    assert normal(text) == seen, "the behaviour changed"
PY
