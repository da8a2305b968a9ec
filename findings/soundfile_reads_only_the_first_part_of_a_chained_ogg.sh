#!/bin/sh
# soundfile 0.14.0: of an Ogg file that is two Vorbis streams one after the other ("chained", RFC 3533 section 4; radio
# recordings and joined clips are such files), read() and info() see only the first stream. No error, no warning: one
# second of sound and two seconds of sound, joined, are one second long.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q soundfile==0.14.0 numpy==2.4.6
cd "$work"
venv/bin/python -W error - <<'PY'
from pathlib import Path

import numpy as np
import soundfile

assert soundfile.__version__ == "0.14.0", soundfile.__version__
for name, seconds in (("one.ogg", 1), ("two.ogg", 2)):
    soundfile.write(name, np.sin(np.arange(seconds * 8000) / 10) / 2, 8000, format="OGG", subtype="VORBIS")
Path("chained.ogg").write_bytes(Path("one.ogg").read_bytes() + Path("two.ogg").read_bytes())
read = {name: len(soundfile.read(name)[0]) for name in ("one.ogg", "two.ogg", "chained.ogg")}
told = soundfile.info("chained.ogg").frames
print(read, "info of the chained file:", told)
assert read == {"one.ogg": 8000, "two.ogg": 16000, "chained.ogg": 8000} and told == 8000, "the behaviour changed"
PY
