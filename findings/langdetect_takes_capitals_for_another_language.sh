#!/bin/sh
# langdetect 1.0.9: captions in capitals, as broadcast subtitles and signs are, are of another language than the same
# captions in small letters: of five French, five Spanish and five Italian ones all fifteen are right in small letters,
# and one in capitals; French becomes Catalan, German or English, Spanish Portuguese, Italian Hungarian or Vietnamese. The
# profiles count capitals as letters of their own. Lower the text before. A data set that is filtered by language loses
# its subtitles, and only some. Guess before it was run: the same language.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q langdetect==1.0.9
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import langdetect

assert version("langdetect") == "1.0.9"
langdetect.DetectorFactory.seed = 0
CAPTIONS = {
    "fr": ["le chien court dans l'herbe verte", "deux hommes jouent au football", "la femme fait la cuisine",
           "les enfants nagent dans le lac", "une voiture rouge devant la maison"],
    "es": ["el perro corre por la hierba verde", "dos hombres juegan al fútbol", "la mujer está cocinando en la cocina",
           "los niños nadan en el lago", "un coche rojo delante de la casa"],
    "it": ["il cane corre nel prato verde", "due uomini giocano a calcio", "la donna cucina nella cucina",
           "i bambini nuotano nel lago", "una macchina rossa davanti alla casa"],
}
right = {"small letters": 0, "capitals": 0}
for language, captions in CAPTIONS.items():
    for caption in captions:
        found = {"small letters": langdetect.detect(caption), "capitals": langdetect.detect(caption.upper())}
        print(f"{caption}: {found['small letters']}, {caption.upper()}: {found['capitals']}")
        for kind in right:
            right[kind] += found[kind] == language
print("right of 15:", right)
assert right == {"small letters": 15, "capitals": 1}, "the behaviour changed"
PY
