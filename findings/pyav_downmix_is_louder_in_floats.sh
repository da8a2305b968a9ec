#!/bin/sh
# PyAV 18.1.0 (FFmpeg): AudioResampler(layout="mono") makes another level of the same sound by its sample format. Two
# equal channels of .49 are .69 when they are floats (fltp, which AAC, Opus and Vorbis are decoded to) and .49 in 16
# bits (s16, as from WAV and FLAC); .9 in both channels is 1.27 in floats, above full scale. A voice in the middle
# channel of 5.1 is .49 in floats and .14 in 16 bits, 11 dB less. So the same film gives a model louder or quieter
# speech by the codec of its sound, and formats are joined at different levels. Converting to s16 before, or taking the
# mean of the channels, gives one level. What one would expect: one level.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q av==18.1.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import av
import numpy as np

assert version("av") == "18.1.0"


def mono(channels, kind, layout):
    samples = np.repeat(np.array(channels)[:, None], 64, 1)
    if kind == "s16":
        frame = av.AudioFrame.from_ndarray((samples * 32768).astype("int16").T.reshape(1, -1), format="s16", layout=layout)
    else:
        frame = av.AudioFrame.from_ndarray(samples.astype("float32"), format="fltp", layout=layout)
    frame.sample_rate = 16000
    resampler = av.AudioResampler(format=kind, layout="mono", rate=16000)
    found = np.concatenate([one.to_ndarray().reshape(-1) for one in (*resampler.resample(frame), *resampler.resample(None))])
    return round(float(found[10]) / (32768 if kind == "s16" else 1), 2)


cases = {
    "both channels .49": ([0.49, 0.49], "stereo", 0.69, 0.49),
    "both channels .9": ([0.9, 0.9], "stereo", 1.27, 0.9),
    "the middle of 5.1": ([0, 0, 0.49, 0, 0, 0], "5.1", 0.49, 0.14),
}
for name, (channels, layout, *expected) in cases.items():
    found = [mono(channels, kind, layout) for kind in ("fltp", "s16")]
    print(f"{name}: {found[0]} in floats, {found[1]} in 16 bits")
    assert found == expected, "the behaviour changed"
PY
