#!/bin/sh
# soundfile 0.14.0 (libsndfile of its wheel), MP3: read(start=n) gives as many samples as it should, but the first 2,000
# to 4,000 of them (about 60 ms at 44.1 kHz) are not those of the file: they are off by as much as the sound itself is
# loud. After that they are equal to 1e-6. Small starts (1,000) are right, and so are Vorbis, Opus and FLAC at any start.
# A loader that cuts clips out of MP3 files with start= trains on clips with a broken beginning; reading the whole file
# and slicing it is right.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q soundfile==0.14.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PY'
import numpy as np
import soundfile

assert soundfile.__version__ == "0.14.0", soundfile.__version__
time = np.arange(2 * 44100)
sweep = np.sin(time * (1 + time / len(time)) / 50) / 2
for kind, subtype, rate in (
    ("MP3", "MPEG_LAYER_III", 44100),
    ("OGG", "VORBIS", 44100),
    ("OGG", "OPUS", 48000),
    ("FLAC", "PCM_16", 44100),
):
    soundfile.write("sound", sweep, rate, format=kind, subtype=subtype)
    whole, _ = soundfile.read("sound")
    for start in (1000, 20000, 60000):
        part, _ = soundfile.read("sound", start=start)
        assert len(part) == len(whole) - start
        off = np.abs(part - whole[start:])
        wrong = np.flatnonzero(off > 1e-3)
        told = f"{len(wrong)} samples off, the last at {wrong.max()}, by up to {off.max():.2f}" if len(wrong) else "equal"
        print(f"{subtype:16}start={start:<6} {told}")
        if kind == "MP3" and start > 1000:
            assert 1000 < len(wrong) and wrong.max() < 6000 and off.max() > 0.3, "the behaviour changed"
        else:
            assert len(wrong) == 0, "the behaviour changed"
PY
