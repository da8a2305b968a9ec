"""Word error rates of the tiny Whisper against always saying the most frequent words, with intervals.

Recordings that training never heard, of captions that it never saw; each as a short sound, and joined to minutes as a
long one. Pauses between joined recordings are silent, so the times at which they are said are known.
"""

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..evaluation.scores import Score
from ..evaluation.significance import compare
from ..evaluation.speech import cer, wer
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..processing.processor import MMProcessor
from .spoken_captions import LANGUAGE, RATE, Spoken, spoken_words

PAUSE = 0.4  # seconds between recordings that are joined


@torch.no_grad()
def heard(model: MMForSpeechSeq2Seq, processor: MMProcessor, sounds: list[Spoken], num_beams: int = 1) -> list[str]:
    """What the model writes for each sound."""
    extractor, written = processor.feature_extractor, []
    for start in range(0, len(sounds), 16):
        chosen = [one.samples.astype(np.float32) / 32768 for one in sounds[start : start + 16]]
        features = extractor(chosen, sampling_rate=RATE, return_tensors="pt").input_features
        ids = model.generate(features, language=LANGUAGE, num_beams=num_beams)
        written += processor.batch_decode(ids, skip_special_tokens=True)
    return [spoken_words(text) for text in written]


def frequent_words(texts: list[str]) -> str:
    """What to say always: the words, of the five most frequent ones, that make the fewest errors on `texts`."""
    usual = [word for word, _ in Counter(word for text in texts for word in text.split()).most_common(5)]
    said = [" ".join(some) for count in (1, 2, 3) for some in combinations(usual, count)]
    return min(said, key=lambda words: wer([words] * len(texts), texts).value)


def joined(sounds: list[Spoken]) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """(samples float32, start and end of each) of sounds one after another."""
    pause, parts, times, place = np.zeros(int(PAUSE * RATE), np.float32), [], [], 0
    for one in sounds:
        parts += [one.samples.astype(np.float32) / 32768, pause]
        times.append((place / RATE, (place + len(one.samples)) / RATE))
        place += len(one.samples) + len(pause)
    return np.concatenate(parts), times


class Stretch(NamedTuple):
    """A segment: seconds from the start of the sound."""

    start: float
    end: float
    text: str


@torch.no_grad()
def told(model: MMForSpeechSeq2Seq, processor: MMProcessor, samples: np.ndarray) -> list[Stretch]:
    """The segments of a sound of any length."""
    features = processor.feature_extractor(
        samples, sampling_rate=RATE, return_tensors="pt", truncation=False, return_attention_mask=True
    )
    written = model.generate(**features, language=LANGUAGE, return_timestamps=True, return_segments=True)
    texts = [processor.tokenizer.decode(one["tokens"], skip_special_tokens=True) for one in written["segments"][0]]
    found = zip(written["segments"][0], texts, strict=True)
    return [Stretch(float(one["start"]), float(one["end"]), text) for one, text in found if text.strip()]


def measure(
    model: MMForSpeechSeq2Seq, processor: MMProcessor, read: list[Spoken], held_out: dict[str, list[Spoken]]
) -> list[str]:
    """Lines of a table."""
    always = frequent_words([one.text for one in read])
    lines = [f"always said: {always!r}", f"{'':34}{'WER':>8}  95 % interval    CER"]
    for split in ("dev", "test"):
        sounds = [one for one in held_out[split] if one.seconds < processor.feature_extractor.chunk_length]
        texts = [one.text for one in sounds]
        lines.append(f"{split}: {len(sounds)} of {len(held_out[split])} recordings fit into a window")
        base = wer([always] * len(texts), texts)
        lines.append(_row("the most frequent words", base, cer([always] * len(texts), texts)))
        for beams in (1, 5):
            ours = heard(model, processor, sounds, beams)
            score = wer(ours, texts)
            lines.append(_row(f"MM, {beams} beam{'s' * (beams > 1)}", score, cer(ours, texts)))
            found = compare(score, base)
            lines.append(
                f"{'  difference':34}{found.difference:8.3f}  [{found.low:.3f}, {found.high:.3f}]  {found.verdict}"
            )
        lines += _long_form(model, processor, sounds)
    return lines


def _long_form(model: MMForSpeechSeq2Seq, processor: MMProcessor, sounds: list[Spoken]) -> list[str]:
    """All of a split as one sound: errors, and how far segments lie from the recordings."""
    samples, times = joined(sounds)
    segments = told(model, processor, samples)
    score = wer([" ".join(spoken_words(one.text) for one in segments)], [" ".join(one.text for one in sounds)])
    starts = np.array([start for start, _ in times])
    apart = [float(np.abs(starts - one.start).min()) for one in segments]
    near = np.mean([min(apart_of(start, segments)) <= 0.3 for start in starts])
    return [
        f"joined to {len(samples) / RATE:.0f} s: WER {score.value:.3f}, {len(segments)} segments for {len(sounds)} "
        f"recordings; a segment begins {np.median(apart):.2f} s (median) from a recording's start; {near:.0%} of the "
        "starts have a segment within 0.3 s"
    ]


def apart_of(start: float, segments: list[Stretch]) -> list[float]:
    """Seconds between `start` and the start of each segment."""
    return [abs(one.start - start) for one in segments] or [float("inf")]


def _row(name: str, words: Score, letters: Score) -> str:
    value, low, high = words.interval()
    return f"{name:34}{value:8.3f}  [{low:.3f}, {high:.3f}]  {letters.value:.3f}"


def write_scores(lines: list[str], minutes: float, file: Path) -> None:
    lines = [*lines, f"{minutes:.1f} CPU minutes for training and its sounds, before these measurements"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)
