#!/bin/sh
# samplerate 0.2.4 (libsamplerate): what a Resampler gives for a sound in pieces is the beginning of what resample() gives
# for the whole, and its end is not there: with sinc_best 143 of 16,000 frames at 48 to 16 kHz (9 ms), with sinc_fastest
# 19. The last call with end_of_input=True returns no more than its piece has by the ratio, and what the filter still holds
# cannot be had by another call. In one piece it is whole, so that a test on a short sound does not show it. Each segment
# of a stream is that much short, and segments put together drift. Guess before it was run: the pieces together are the
# whole.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q samplerate==0.2.4 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import samplerate

assert version("samplerate") == "0.2.4"
sound = np.sin(2 * np.pi * 440 * np.arange(48000) / 48000).astype(np.float32)
for kind, least in (("sinc_best", 100), ("sinc_medium", 30), ("sinc_fastest", 10), ("linear", 0)):
    whole = samplerate.resample(sound, 1 / 3, kind)
    for size in (1000, 24000, 48000):
        stream = samplerate.Resampler(kind)
        starts = range(0, len(sound), size)
        pieces = [stream.process(sound[at : at + size], 1 / 3, end_of_input=at + size >= len(sound)) for at in starts]
        more = len(stream.process(np.empty(0, np.float32), 1 / 3, end_of_input=True))
        joined = np.concatenate(pieces)
        print(f"{kind}, pieces of {size}: {len(joined)} of {len(whole)} frames, {more} by another call")
        assert np.abs(joined - whole[: len(joined)]).max() < 1e-6
        lost = len(whole) - len(joined)
        assert more == 0 and (lost >= least if size < len(sound) else lost == 0), "the behaviour changed"
        assert size == len(sound) or lost < 2 * least + 1
PY
