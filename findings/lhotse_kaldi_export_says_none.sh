#!/bin/sh
# lhotse 1.33.0: export_to_kaldi writes a segment without a transcript as one in which "None" is said, and one without a
# speaker as one of the speaker "None". Untranscribed speech goes into a Kaldi or ESPnet training with the word None as
# its text, all unknown speakers are one, and load_kaldi_data_dir gives the words back as if somebody had said them.
# Guess before it was run: such a segment is left out of the file "text", as one with an empty text stands there without
# words.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 lhotse==1.33.0 urllib3==2.8.0 soundfile==0.14.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.kaldi import export_to_kaldi, load_kaldi_data_dir

assert version("lhotse") == "1.33.0"
soundfile.write("talk.wav", np.zeros(32000), 16000)
segments = [
    SupervisionSegment("one", "talk", 0, 0.5, text="a dog runs", speaker="mary"),
    SupervisionSegment("two", "talk", 0.5, 0.5, text=None, speaker=None),
    SupervisionSegment("three", "talk", 1, 0.5, text="", speaker="mary"),
]
recordings = RecordingSet.from_recordings([Recording.from_file("talk.wav")])
export_to_kaldi(recordings, SupervisionSet.from_segments(segments), "data")
written = {name: Path("data", name).read_text().splitlines() for name in ("text", "utt2spk")}
_, supervisions, _ = load_kaldi_data_dir("data", 16000)
back = {one.id: (one.text, one.speaker) for one in supervisions}
print(f"files: {written}, read back: {back}")
assert "two None" in written["text"] and "two None" in written["utt2spk"], "the behaviour changed"
assert back == {"one": ("a dog runs", "mary"), "two": ("None", "None"), "three": ("", "mary")}, "the behaviour changed"
PY
