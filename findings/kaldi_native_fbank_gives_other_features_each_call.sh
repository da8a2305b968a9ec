#!/bin/sh
# kaldi-native-fbank 1.23.0: the filter banks of default options differ from call to call. FrameExtractionOptions has
# dither = 3e-5, noise is added to the samples, and there is no seed to set. Of a pure tone of amplitude 1 the log energies
# of two calls in one process differ by about 2 in the bands between which the tone has no energy; the features of
# digital silence are noise between -16 and -11 instead of the floor of -15.94. With dither = 0 two calls are equal, and so
# are one call and the same sound in pieces. Features computed once and again for a test, a cache or a second machine
# are equal only when the dither is switched off by hand.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q kaldi-native-fbank==1.23.0 numpy==2.4.6
cd "$work"
venv/bin/python -W error - <<'PY'
from importlib.metadata import version

import kaldi_native_fbank
import numpy as np

assert version("kaldi-native-fbank") == "1.23.0", version("kaldi-native-fbank")


def features(sound, dither=None):
    options = kaldi_native_fbank.FbankOptions()
    options.mel_opts.num_bins = 40
    if dither is not None:
        options.frame_opts.dither = dither
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(16000, sound.tolist())
    bank.input_finished()
    return np.stack([bank.get_frame(frame) for frame in range(bank.num_frames_ready)])


for name, sound in (("tone", np.sin(np.arange(16000) / 7)), ("silence", np.zeros(16000))):
    first, second = features(sound), features(sound)
    off = np.abs(first - second).max()
    print(f"{name}: two calls differ by up to {off:.2f}, values {first.min():.2f} to {first.max():.2f}")
    assert off > 0.5, "the behaviour changed"
    first, second = features(sound, dither=0.0), features(sound, dither=0.0)
    off = np.abs(first - second).max()
    print(f"{name}, dither=0: two calls differ by up to {off:.2f}, values {first.min():.2f} to {first.max():.2f}")
    assert off == 0, "the behaviour changed"
PY
