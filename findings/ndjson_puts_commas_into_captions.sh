#!/bin/sh
# ndjson 0.3.1: load() and loads() make a comma of each line separator U+2028, next line U+0085 and their like that stands
# inside a string: the caption "a dog<U+2028>runs" is read as "a dog,runs". Texts from web pages and PDF files hold them,
# JSON allows U+2028, U+2029 and U+0085 as they are, and json.dumps(ensure_ascii=False) and
# ndjson.dumps(ensure_ascii=False) write them. ndjson splits the text where Python's splitlines() does and joins it with
# commas. Nothing is raised; jsonlines 4.0.0 and a loop over the lines of the file read them right.
# Guess before it was run: unchanged, or an error.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q ndjson==0.3.1 jsonlines==4.0.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import io
import json
from importlib.metadata import version

import jsonlines
import ndjson

assert version("ndjson") == "0.3.1"
for sign in ("\u2028", "\u2029", "\x85", "\n", "\u00a0"):
    rows = [{"caption": f"a dog{sign}runs"}, {"caption": "a cat"}]
    text = ndjson.dumps(rows, ensure_ascii=False)
    assert [json.loads(line) for line in text.split("\n")] == rows
    by_text, by_file = ndjson.loads(text), ndjson.load(io.StringIO(text))
    print(f"{sign!a} in a caption: loads {by_text[0]['caption']!a}, load {by_file[0]['caption']!a}")
    assert by_file == by_text and list(jsonlines.Reader(io.StringIO(text))) == rows
    changed = sign in "\u2028\u2029\x85"
    assert by_text[0]["caption"] == ("a dog,runs" if changed else f"a dog{sign}runs"), "the behaviour changed"
PY
