#!/bin/sh
# pympi-ling 1.71: Eaf.shift_annotations(ms) moves the time slots of an ELAN file once for each annotation that names them. Where
# two annotations share a slot, as an end that is the next one's beginning, that time is moved twice: words of 0 to 1 s and
# 1 to 2 s, moved by 5 s, are 5 to 11 and 11 to 7 s. An annotation that a shift to the left cuts at 0 keeps its old
# end: 100 to 900 ms, moved by -500, is 0 to 900. Nothing is said, and to_file writes it.
# What one would expect: 5 to 6 s and 6 to 7 s; 0 to 400 ms.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pympi-ling==1.71
cd "$work"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version
from pathlib import Path

from pympi.Elan import Eaf

assert version("pympi-ling") == "1.71"
WORD = """<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{0}" TIME_SLOT_REF1="ts{1}" TIME_SLOT_REF2="ts{2}">
<ANNOTATION_VALUE>word {0}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"""


def moved(by, slots, words):
    times = "".join(f'<TIME_SLOT TIME_SLOT_ID="ts{slot}" TIME_VALUE="{ms}"/>' for slot, ms in enumerate(slots, 1))
    tier = "".join(WORD.format(number, *ends) for number, ends in enumerate(words, 1))
    Path("speech.eaf").write_text(
        '<?xml version="1.0" encoding="UTF-8"?><ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T00:00:00+00:00" FORMAT="3.0" '
        'VERSION="3.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">'
        f'<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds"/><TIME_ORDER>{times}</TIME_ORDER>'
        f'<TIER LINGUISTIC_TYPE_REF="words" TIER_ID="words">{tier}</TIER>'
        '<LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="words" TIME_ALIGNABLE="true"/></ANNOTATION_DOCUMENT>'
    )
    speech = Eaf("speech.eaf")
    before = [span[:2] for span in speech.get_annotation_data_for_tier("words")]
    speech.shift_annotations(by)
    after = [span[:2] for span in speech.get_annotation_data_for_tier("words")]
    print(f"{before} moved by {by} ms: {after}")
    return after


assert moved(5000, [0, 1000, 2000], [(1, 2), (2, 3)]) == [(5000, 11000), (11000, 7000)], "the behaviour changed"
assert moved(-500, [100, 900], [(1, 2)]) == [(0, 900)], "the behaviour changed"
assert moved(5000, [0, 1000, 1000, 2000], [(1, 2), (3, 4)]) == [(5000, 6000), (6000, 7000)]
PY
