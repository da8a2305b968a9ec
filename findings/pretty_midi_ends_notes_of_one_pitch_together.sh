#!/bin/sh
# pretty_midi 0.2.11: a note that is still held when another of the same pitch ends is ended with it: of 0 to 2 s and 1
# to 1.5 s on one instrument the file gives back 0 to 1.5 s and 1 to 1.5 s. The end of the long one is in the file, and
# is passed over. A pedal in piano music, two voices in one track and merged transcriptions have such notes; what was
# written and what is read differ, and a transcription that is scored by offsets loses points for being saved. Notes
# that overlap without one being inside the other are cut too: 0 to 2 s and 1 to 3 s are both 2 s. mido reads all four
# ends. Guess before it was run: every note keeps its own end.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q pretty_midi==0.2.11.post0 mido==1.3.3 numpy==2.4.6 setuptools==80.9.0
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import mido
import pretty_midi

assert version("pretty_midi") == "0.2.11.post0"
for name, times, expected in (
    ("inside", [(0, 2), (1, 1.5)], [(0, 1.5), (1, 1.5)]),
    ("overlapping", [(0, 2), (1, 3)], [(0, 2), (1, 2)]),
    ("one after the other", [(0, 1), (1, 3)], [(0, 1), (1, 3)]),
):
    piano = pretty_midi.Instrument(0)
    piano.notes = [pretty_midi.Note(100, 60, *time) for time in times]
    music = pretty_midi.PrettyMIDI()
    music.instruments.append(piano)
    music.write("music.mid")
    notes = pretty_midi.PrettyMIDI("music.mid").instruments[0].notes
    read = sorted((round(note.start, 2), round(note.end, 2)) for note in notes)
    clock, ends = 0, []
    for message in mido.MidiFile("music.mid"):
        clock += message.time
        if message.type in ("note_on", "note_off") and not (message.type == "note_on" and message.velocity):
            ends.append(round(clock, 2))
    print(f"{name}: {times} is read as {read}; ends in the file by mido {ends}")
    assert ends == sorted(end for _, end in times)
    assert read == expected, "the behaviour changed"
PY
