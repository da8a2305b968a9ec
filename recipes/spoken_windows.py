"""Windows of joined speech in one language with what is said in them, made anew for every index.

    clips ── other speed, loudness ── silence, clip, silence, clip ... ── noise ── features, some of them hidden
                                          │                │
                                       <|0.40|> un gato<|1.22|>           times, or none of them

A clip that goes beyond the window is told by the time at which it begins, as Whisper does it: the next window starts
there. `batch` gives B windows of T tokens at most.
"""

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..processing.processor import MMProcessor
from .spoken_captions import RATE, Spoken

TIMES = 0.7  # share of the windows whose text has times
READ = 0.5  # share of clips that are recordings
HIDDEN_BANDS, HIDDEN_FRAMES = 12, 15  # at most, of a window (SpecAugment)


Clip = tuple[str, float, float]  # its text, start and end


class SpokenWindows(Dataset):
    """Endless windows of `seconds`; window `index` is a function of (seed, index), so that a run can be resumed."""

    def __init__(
        self,
        read: list[Spoken],
        said: list[Spoken],
        processor: MMProcessor,
        seconds: int,
        batch_size: int,
        seed: int,
        times: float = TIMES,
    ):
        longest = seconds - 0.1
        self.languages = sorted({one.language for one in read + said})
        self.kinds = {
            language: [[one for one in kind if one.seconds < longest and one.language == language]
                       for kind in (read, said)]
            for language in self.languages
        }  # fmt: skip
        self.tokenizer, self.extractor = processor.tokenizer, type(processor.feature_extractor)(chunk_length=seconds)
        self.seconds, self.batch_size, self.seed = seconds, batch_size, seed
        self.hides = (self.extractor.feature_size, HIDDEN_BANDS), (100 * seconds, HIDDEN_FRAMES)
        self.noise = np.random.default_rng(seed).standard_normal(20 * RATE, dtype=np.float32)
        tokenizer = processor.tokenizer
        self.first_time = tokenizer.convert_tokens_to_ids("<|0.00|>")
        self.times = times
        self.no_times = tokenizer.convert_tokens_to_ids("<|notimestamps|>")

    def __len__(self) -> int:
        return 10_000_000

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, index))
        sound, clips, cut, language = self._joined(rng)
        place = rng.integers(len(self.noise) - len(sound))
        sound += self.noise[place : place + len(sound)] * np.float32(10 ** rng.uniform(-4.5, -2))
        with_times = cut is not None or rng.random() < self.times
        ids = self.tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>"])
        ids = ids if with_times else [*ids, self.no_times]
        hidden = [(at := rng.integers(size), at + rng.integers(most)) for size, most in self.hides]
        return {
            "sound": sound, "opening": len(ids), "ids": [*ids, *self._told(clips, cut, with_times)], "hidden": hidden,
        }  # fmt: skip

    def _joined(self, rng: np.random.Generator) -> tuple[np.ndarray, list[Clip], float | None, str]:
        """(samples, (text, start, end) of each clip, where a clip begins that the window cuts, the language)."""
        window = self.seconds * RATE
        sound, clips, cut = np.zeros(window, np.float32), [], None
        place = int(rng.uniform(0, 0.5) * RATE)
        most = 1 if self.seconds <= 2 else rng.integers(1, 7)
        language = self.languages[rng.integers(len(self.languages))] if len(self.languages) > 1 else self.languages[0]
        while len(clips) < most:
            kind = self.kinds[language][0 if rng.random() < READ else 1]
            one = kind[rng.integers(len(kind))]
            samples = changed(one.samples, rng)
            if not clips and place + len(samples) > window:
                place = max(0, window - len(samples))
                samples = samples[:window]
            if place + len(samples) > window:
                if place < window - RATE // 4 and rng.random() < 0.5:
                    sound[place:] += samples[: window - place]
                    cut = place / RATE
                break
            sound[place : place + len(samples)] += samples
            clips.append((one.text, place / RATE, (place + len(samples)) / RATE))
            place += len(samples) + int(rng.uniform(0.05, 0.7) * RATE)
        return sound, clips, cut, language

    def _told(self, clips: list[tuple[str, float, float]], cut: float | None, with_times: bool) -> list[int]:
        ids = []
        for text, start, end in clips:
            words = self.tokenizer(" " + text, add_special_tokens=False).input_ids
            ids += [self._time(start), *words, self._time(end)] if with_times else words
        return [*ids, *([] if cut is None else [self._time(cut)]), self.tokenizer.eos_token_id]

    def _time(self, seconds: float) -> int:
        return self.first_time + min(round(seconds * 50), self.seconds * 50)

    def batch(self, items: list[dict]) -> dict[str, torch.Tensor]:
        made = self.extractor([item["sound"] for item in items], sampling_rate=RATE, return_tensors="pt")
        for features, item in zip(made.input_features, items, strict=True):
            (low, high), (start, end) = item["hidden"]
            features[low:high], features[:, start:end] = features.mean(), features.mean()
        longest = max(len(item["ids"]) for item in items)
        ids = torch.full((len(items), longest), self.tokenizer.eos_token_id)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, item in enumerate(items):
            length = len(item["ids"])
            ids[row, :length] = labels[row, :length] = torch.tensor(item["ids"])
            labels[row, : item["opening"]] = -100
            if len(self.languages) > 1:
                labels[row, 1] = ids[row, 1]
            mask[row, :length] = 1
        return {
            "input_features": made.input_features[:, None], "input_ids": ids, "attention_mask": mask, "labels": labels,
        }  # fmt: skip


def changed(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another speed (and with it pitch) and loudness: float32."""
    speed = rng.uniform(0.88, 1.14)
    places = np.arange(0, len(samples) - 1, speed)
    peak = max(1, int(np.abs(samples).max()))
    loud = 10 ** rng.uniform(-1, -0.05) / peak
    return (np.interp(places, np.arange(len(samples)), samples) * loud).astype(np.float32)
