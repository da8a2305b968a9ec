#!/bin/sh
# jiwer 4.0.0 splits words at the plain space only. Two words with a tab, a line feed, a no-break space (U+00A0) or the
# ideographic space (U+3000) between them are one word: wer() of "a<tab>b" against "a b" is 2.0, two hundred percent for
# a perfect transcript, and of whole sentences the words on both sides of the break count as wrong. werpy 3.5.0 gives 0
# for all of them. Transcripts cut out of tab-separated files, subtitles of two lines and text copied from web pages
# hold such characters; " ".join(text.split()) before jiwer makes both agree.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q jiwer==4.0.0 werpy==3.5.0
cd "$work"
venv/bin/python -W error - <<'PY'
from importlib.metadata import version

import jiwer
import werpy

assert (version("jiwer"), version("werpy")) == ("4.0.0", "3.5.0")
said = "a red bus stops here"
for name, gap in (("two spaces", "  "), ("tab", "\t"), ("line feed", "\n"), ("U+00A0", "\u00a0"), ("U+3000", "\u3000")):
    written = said.replace("red bus", f"red{gap}bus")
    by_jiwer, by_werpy = jiwer.wer(written, said), werpy.wer(written, said)
    joined = jiwer.wer(" ".join(written.split()), said)
    print(f"{name:12} WER {by_jiwer:.2f} in jiwer, {by_werpy:.2f} in werpy, {joined:.2f} in jiwer after split and join")
    assert by_werpy == joined == 0, "the behaviour changed"
    assert by_jiwer == (0 if name == "two spaces" else 2 / 4), "the behaviour changed"
PY
