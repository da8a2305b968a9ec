#!/bin/sh
# pylrc 0.1.2: the offset of an LRC file ([offset:+500], milliseconds) is added to its times; by the format a positive one
# makes the words come sooner, so that a line at 12.0 s with +500 belongs at 11.5 s and is read as 12.5 s. Words for
# alignment or for a model of singing are twice the offset late. Files without an offset are right, three digits of a
# second and several times before one line too. Guess before it was run: 11.5 s.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pylrc==0.1.2
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import pylrc

assert version("pylrc") == "0.1.2"
for offset in ("", "[offset:+500]\n", "[offset:-500]\n"):
    times = [line.time for line in pylrc.parse(f"{offset}[00:12.00][00:24.345]a line\n")]
    print(f"{offset.strip() or 'no offset'}: {times}")
    move = {"+": 0.5, "-": -0.5}.get(offset[8:9], 0)
    assert all(abs(got - at - move) < 1e-6 for got, at in zip(times, (12, 24.345))), "the behaviour changed"
PY
