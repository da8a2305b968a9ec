"""A picture of what a tiny Whisper wrote of joined recordings: the lines of an SRT and the times of words.

    python -m mm.recipes.tiny_whisper_picture runs/tiny-whisper/model docs/pictures/tiny-whisper.png

The recordings are held out, and their true places are known, since the pauses between them are silent. They go through
`mm transcribe` as a file of sound, once to an SRT and once to the times of words. Needs matplotlib and soundfile.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from .spoken_captions import LANGUAGE, RATE, recordings
from .tiny_whisper_scores import Stretch, joined

COUNT, LONGEST = 7, 2.0  # recordings, and seconds of each
_CUE = re.compile(r"\d+\n([\d:,]+) --> ([\d:,]+)\n(.*)")


def cues_of(text: str) -> list[Stretch]:
    """The cues of an SRT."""
    return [Stretch(_seconds(start), _seconds(end), said) for start, end, said in _CUE.findall(text)]


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def transcribed(model: Path, samples: np.ndarray) -> tuple[list[Stretch], list[Stretch]]:
    """What `mm transcribe` writes of a sound, float32 (n,) at RATE, with five beams: the cues of an SRT, and words."""
    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder, "joined.wav")
        soundfile.write(sound, samples, RATE)
        command = [sys.executable, "-m", "mm_console", "transcribe", str(sound), "--model", str(model), "-o", folder]
        command += ["--language", LANGUAGE, "--num-beams", "5", "--device", "cpu"]
        for form in (["--format", "srt"], ["--format", "json", "--words"]):
            subprocess.run([*command, *form], check=True)
        cues = cues_of(sound.with_suffix(".srt").read_text(encoding="utf-8"))
        lines = sound.with_suffix(".json").read_text(encoding="utf-8").splitlines()
    words = [word for line in lines for word in json.loads(line)["words"]]
    return cues, [Stretch(word["start"], word["end"], word["word"]) for word in words]


def draw(samples: np.ndarray, true: list[Stretch], cues: list[Stretch], words: list[Stretch], file: Path) -> None:
    """The waveform with the cues above it, the words in it and the true captions below it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    step = RATE // 200
    blocks = samples[: len(samples) // step * step].reshape(-1, step) / np.abs(samples).max()
    times = (np.arange(len(blocks)) + 0.5) * step / RATE
    axes.fill_between(times, blocks.min(1), blocks.max(1), color="#9aa5b1", linewidth=0)
    rows = ((1.75, cues, "#2b6cb0", 8), (1.2, words, "#c05621", 7), (-1.75, true, "#2f855a", 8))
    for place, stretches, colour, size in rows:
        for number, one in enumerate(stretches):
            axes.hlines(place, one.start, one.end, color=colour, linewidth=3)
            lift = 0.08 + 0.2 * (number % 2)
            axes.text(one.start, place + lift, one.text, color=colour, fontsize=size, verticalalignment="bottom")
    for one in true:
        axes.axvspan(one.start, one.end, color="#2f855a", alpha=0.08, linewidth=0)
    axes.set(xlim=(0, len(samples) / RATE), ylim=(-1.9, 2.35), xlabel="seconds")
    axes.set_yticks([1.75, 1.2, 0, -1.75], ["SRT", "words", "sound", "captions"])
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=100, metadata={"Software": None})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder that tiny_whisper wrote")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    options = parser.parse_args(arguments)
    sounds = [one for one in recordings()["test"] if one.seconds < LONGEST][:COUNT]
    samples, times = joined(sounds)
    true = [Stretch(*place, one.text) for place, one in zip(times, sounds, strict=True)]
    draw(samples, true, *transcribed(options.model, samples), options.picture)


if __name__ == "__main__":
    main()
