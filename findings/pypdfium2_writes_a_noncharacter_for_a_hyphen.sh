#!/bin/sh
# pypdfium2 5.15.2: a hyphen at the end of a line comes out of get_text_range() as U+FFFE, which is no character, and the
# line break with it is gone; get_text_bounded() of the same page has U+0002 in its place. So "a well-" over "known dog" is
# "a well" U+FFFE "known dog". It is so for a compound and for a word that was divided, so that nobody can tell "well-
# known" from "exam-ple" any more; after a number the hyphen stays. Such texts look right when they are printed, and train
# a tokenizer on bytes that no other text has. Guess before it was run: a hyphen and a line break, or the word joined.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pypdfium2==5.15.2 reportlab==5.1.0 pillow==13.0.0
"$work/venv/bin/python" -W ignore - <<'PY'
import io
from importlib.metadata import version

import pypdfium2
from reportlab.pdfgen.canvas import Canvas

assert version("pypdfium2") == "5.15.2"


def read(*lines):
    file = io.BytesIO()
    page = Canvas(file, pagesize=(200, 100))
    for number, line in enumerate(lines):
        page.drawString(10, 80 - 12 * number, line)
    page.showPage()
    page.save()
    text = pypdfium2.PdfDocument(file.getvalue())[0].get_textpage()
    return text.get_text_range(), text.get_text_bounded()


LINES = {
    ("a well-", "known dog"): ("a well\ufffeknown dog", "a well\x02known dog"),
    ("exam-", "ple text"): ("exam\ufffeple text", "exam\x02ple text"),
    ("10-", "20"): ("10-\r\n20", "10-\r\n20"),
    ("a dog", "runs"): ("a dog\r\nruns", "a dog\r\nruns"),
}
for lines, wanted in LINES.items():
    seen = read(*lines)
    print(f"{lines}: {ascii(seen[0])}, bounded {ascii(seen[1])}")
    assert seen == wanted, "the behaviour changed"
PY
