"""A picture of subtitles over the waveform of their sound, to see whether cues begin and end where speech does.

mm transcribe talk.wav --model DIR --language fr --format srt --output out
python benchmarks/subtitles_picture.py talk.wav out/talk.srt talk.png
"""

import argparse
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mm.processing.sounds.load import load_sound

RATE, SECONDS = 16000, 10  # seconds in a row of the picture
_CUE = re.compile(r"(\d+):(\d+):(\d+),(\d+) --> (\d+):(\d+):(\d+),(\d+)\n(.*)")


def cues(text: str) -> list[tuple[float, float, str]]:
    """(start, end, text) of each cue of an .srt."""
    found = []
    for *clock, words in _CUE.findall(text):
        hours, minutes, seconds, thousandths = (np.array(clock[place::4], float) for place in range(4))
        start, end = hours * 3600 + minutes * 60 + seconds + thousandths / 1000
        found.append((float(start), float(end), words))
    return found


def draw(samples: np.ndarray, told: list[tuple[float, float, str]], file: Path) -> None:
    rows = max(1, int(np.ceil(len(samples) / RATE / SECONDS)))
    figure, axes = plt.subplots(rows, 1, figsize=(16, 1.9 * rows), squeeze=False)
    times = np.arange(len(samples)) / RATE
    for row, axis in enumerate(axes[:, 0]):
        start = row * SECONDS
        here = slice(start * RATE, (start + SECONDS) * RATE)
        axis.plot(times[here], samples[here], linewidth=0.4, color="steelblue")
        for number, (begin, end, words) in enumerate(told):
            if begin < start + SECONDS and end > start:
                axis.axvspan(max(begin, start), min(end, start + SECONDS), color="orange", alpha=0.3)
                axis.text(max(begin, start), (0.75, -0.9)[number % 2], words, fontsize=7, clip_on=True)
        axis.set(xlim=(start, start + SECONDS), ylim=(-1, 1), yticks=[])
    figure.tight_layout()
    figure.savefig(file, dpi=70)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sound", type=Path)
    parser.add_argument("subtitles", type=Path)
    parser.add_argument("picture", type=Path)
    asked = parser.parse_args(arguments)
    told = cues(asked.subtitles.read_text(encoding="utf-8"))
    samples = load_sound(asked.sound, RATE)
    draw(samples / max(1e-9, float(np.abs(samples).max())), told, asked.picture)
    print(f"{len(told)} cues over {len(samples) / RATE:.1f} s in {asked.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
