#!/bin/sh
# pyannote.metrics 4.2.0 and spy-der 0.4.1 give two diarization error rates for one recording where two segments of one speaker
# overlap, as they do in RTTM files made of words or of utterances with some margin. pyannote counts the speaker twice there:
# 0 to 10 s and 5 to 15 s are 20 s of speech, and 0 to 15 s by the same speaker, which is all there is, an error of 25 %;
# spy-der counts 15 s and no error. Annotation.support() before, which joins the segments, makes them agree.
# Guess before it was run: both give the same rate for the same segments.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pyannote.metrics==4.2.0 spy-der==0.4.1 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import spyder
from pyannote.core import Annotation, Segment
from pyannote.metrics.diarization import DiarizationErrorRate

assert (version("pyannote.metrics"), version("spy-der")) == ("4.2.0", "0.4.1")


def rates(reference, hypothesis):
    told = []
    for segments in (reference, hypothesis):
        told.append(Annotation())
        for number, (speaker, begin, end) in enumerate(segments):
            told[-1][Segment(begin, end), number] = speaker
    other = spyder.DER(reference, hypothesis)
    seen = [DiarizationErrorRate()(*pair, detailed=True) for pair in (told, [one.support() for one in told])]
    seen = [(one["total"], round(one["diarization error rate"], 4)) for one in seen]
    seen.append((other.duration, round(other.der, 4)))
    print(f"{reference} against {hypothesis}: pyannote {seen[0]}, with support() {seen[1]}, spy-der {seen[2]}")
    return seen


over = [("anna", 0.0, 10.0), ("anna", 5.0, 15.0)]
assert rates(over, [("anna", 0.0, 15.0)]) == [(20, 0.25), (15, 0), (15, 0)], "the behaviour changed"
apart = [("anna", 0.0, 10.0), ("ben", 5.0, 15.0)]
assert rates(apart, [("anna", 0.0, 10.0), ("ben", 5.0, 14.0)]) == [(20, 0.05)] * 3
PY
