"""Pictures by a spoken name: recalls beside those of a sound's length and of chance, with intervals.

    python -m mm.recipes.spoken_names_scores checkpoints/mm-tiny-spoken

dev                clips of the development stamps among their 90 pictures: settings were chosen by them
new names          clips of the test stamps among their 207 pictures; no picture, caption or clip of them was learned
known names        clips of training stamps that training did not hear, among all 653 pictures of training: it heard
                   their names in this language from espeak-ng only, and read aloud in the other two

Clips whose sound, or whose caption read aloud in their language, training has are left out of both. French, Spanish
and Russian.
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import AutoProcessor

from ..evaluation.scores import Score, mean_score
from ..evaluation.significance import compare
from ..evaluation.speech import cer, wer
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from .spoken_captions import spoken_words
from .spoken_names_data import RATE, SAID, is_unheard, samples_of
from .stamps import SPOKEN, Stamp, load_stamps, picture_of, words_of
from .tiny_whisper_scores import frequent_words

PACKAGED = Path(__file__).resolve().parents[1] / "checkpoints" / "mm-tiny"
FINDER = "finder"  # the folder of the model that finds, below that of the one that hears
WAY = "sound and text"  # the mean of both embeddings
NEAREST = 10  # recordings of about the same length


@dataclass
class Trial:
    """Clips and the pictures among which they are looked for. shown: the gallery; of each clip: its stamp, language,
    samples, the places of its pictures."""

    shown: list[Stamp]
    clips: list[tuple[Stamp, str, np.ndarray, list[int]]]


def trials(stamps: Sequence[Stamp]) -> dict[str, Trial]:
    """ "dev", "new names" and "known names"."""
    known = [stamp for stamp in stamps if stamp.split == "train"]
    digests, texts = set(), set()
    for stamp in known:
        for language in SPOKEN:
            if language in stamp.sounds and not is_unheard(stamp, language):
                digests.add(_digest(stamp.sounds[language]))
                texts.add((language, words_of(stamp.captions[language])))
    chosen = {
        "dev": [stamp for stamp in stamps if stamp.split == "dev"],
        "new names": [stamp for stamp in stamps if stamp.split == "test"],
        "known names": known,
    }
    found = {}
    for name, shown in chosen.items():
        clips, taken = [], set()
        places: dict[str, list[int]] = {}
        for place, stamp in enumerate(shown):
            places.setdefault(words_of(stamp.captions["en"]), []).append(place)
        for stamp in shown:
            for language in SAID:
                if language not in stamp.sounds or (stamp.split == "train" and not is_unheard(stamp, language)):
                    continue
                digest, text = _digest(stamp.sounds[language]), (language, words_of(stamp.captions[language]))
                if digest in digests | taken or text in texts:
                    continue
                taken.add(digest)
                right = places[words_of(stamp.captions["en"])]
                clips.append((stamp, language, samples_of(stamp.sounds[language]), right))
        found[name] = Trial(shown, clips)
    return found


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


# -- what is heard ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def written(model: Any, processor: Any, sounds: Sequence[np.ndarray], num_beams: int = 1) -> list[tuple[str, str]]:
    """(language, text) of each sound, int16 at RATE. One that is longer than a window is written window by window."""
    model.eval()
    window, found = processor.feature_extractor.n_samples, {}
    order = sorted(range(len(sounds)), key=lambda place: len(sounds[place]) > window)
    for start in range(0, len(order), 16):
        own = order[start : start + 16]
        is_long = any(len(sounds[place]) > window for place in own)
        features = processor.feature_extractor(
            [sounds[place].astype(np.float32) / 32768 for place in own], sampling_rate=RATE, return_tensors="pt",
            **({"truncation": False, "padding": "longest", "return_attention_mask": True} if is_long else {}),
        )  # fmt: skip
        marks = model.detect_language(features["input_features"][..., : processor.feature_extractor.nb_max_frames])
        languages = [mark.strip("<|>") for mark in marks]
        ids = model.generate(**features, language=languages, num_beams=num_beams, return_timestamps=is_long)
        texts = processor.batch_decode(ids, skip_special_tokens=True)
        found |= dict(zip(own, zip(languages, map(spoken_words, texts), strict=True), strict=True))
    return [found[place] for place in range(len(sounds))]


@torch.no_grad()
def heard(model: Any, processor: Any, sounds: Sequence[np.ndarray], batch_size: int = 32) -> torch.Tensor:
    """float32 (n, P) of the sounds themselves."""
    model.eval()
    parts = []
    for start in range(0, len(sounds), batch_size):
        own = [[samples.astype(np.float32) / 32768] for samples in sounds[start : start + batch_size]]
        parts.append(model.embed_read(processor(audio=own, sampling_rate=RATE, return_tensors="pt")))
    return torch.cat(parts)


@torch.no_grad()
def shown(model: Any, processor: Any, stamps: Sequence[Stamp], batch_size: int = 32) -> torch.Tensor:
    """float32 (n, P)."""
    model.eval()
    parts = []
    for start in range(0, len(stamps), batch_size):
        own = [picture_of(stamp.file) for stamp in stamps[start : start + batch_size]]
        parts.append(model.embed_read(processor(images=own, return_tensors="pt")))
    return torch.cat(parts)


@torch.no_grad()
def read(model: Any, processor: Any, texts: Sequence[str], batch_size: int = 64) -> torch.Tensor:
    """float32 (n, P)."""
    model.eval()
    parts = []
    for start in range(0, len(texts), batch_size):
        rows = processor(text=list(texts[start : start + batch_size]), return_tensors="pt", truncation=True)
        parts.append(model.encode_text(rows["input_ids"], rows["attention_mask"]))
    return torch.cat(parts)


# -- ranks ------------------------------------------------------------------------------------------------------------


def ranks(scores: np.ndarray, right: Sequence[Sequence[int]]) -> np.ndarray:
    """int (n,): how many of the candidates (n, m) are strictly better than the best right one; a tie counts half of
    those that are as good, rounded up."""
    found = []
    for row, places in zip(scores, right, strict=True):
        best = row[list(places)].max()
        found.append(int((row > best).sum() + -(-((row == best).sum() - 1) // 2)))
    return np.array(found)


def by_length(trial: Trial, embeds: torch.Tensor, known: Sequence[tuple[str, float, torch.Tensor]]) -> np.ndarray:
    """float (clips, pictures): how near a picture's embedding is to those of the pictures of the NEAREST training
    recordings in the language that are about as long as the clip."""
    rows = []
    for _, language, samples, _ in trial.clips:
        own = [(abs(seconds - len(samples) / RATE), place) for place, (of, seconds, _) in enumerate(known)
               if of == language]  # fmt: skip
        near = torch.stack([known[place][2] for _, place in sorted(own)[:NEAREST]]).mean(0)
        rows.append((embeds @ near).numpy())
    return np.stack(rows)


def by_caption_length(trial: Trial, known: Sequence[tuple[str, int, float]]) -> np.ndarray:
    """float (clips, pictures): minus how far a clip's length is from what a line through (letters of the caption,
    seconds) of the training recordings in the language tells of the picture's caption, which it is told."""
    lines = {}
    for language in SAID:
        points = np.array([(letters, seconds) for of, letters, seconds in known if of == language])
        lines[language] = np.polyfit(points[:, 0], points[:, 1], 1)
    rows = []
    for _, language, samples, _ in trial.clips:
        told = [np.polyval(lines[language], len(stamp.captions.get(language, ""))) for stamp in trial.shown]
        rows.append(-np.abs(np.array(told) - len(samples) / RATE))
    return np.stack(rows)


def ways_of(folder: Path, trial: Trial) -> tuple[dict[str, torch.Tensor], list[tuple[str, str]]]:
    """(embeddings (clips, P) by the way that leads to them, what is written of each clip)."""
    hearer, hearing = MMForSpeechSeq2Seq.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    finder = MMForImageTextRetrieval.from_pretrained(folder / FINDER).eval()
    finding = AutoProcessor.from_pretrained(folder / FINDER)
    sounds = [clip[2] for clip in trial.clips]
    told = written(hearer, hearing, sounds)
    ways = {
        "its sound": heard(finder, finding, sounds),
        "its text": read(finder, finding, [text or "?" for _, text in told]),
        "the true text": read(finder, finding, [spoken_words(stamp.captions[of]) for stamp, of, _, _ in trial.clips]),
    }
    return {WAY: normalize(ways["its sound"] + ways["its text"], dim=-1), **ways}, told


def pictures_of(start: Path, stamps: Sequence[Stamp]) -> torch.Tensor:
    """mm-tiny's embeddings (n, P)."""
    model = MMForImageTextRetrieval.from_pretrained(start).eval()
    return shown(model, AutoProcessor.from_pretrained(start), stamps)


@dataclass
class Found:
    """What a trial gave: by the way that led there the rank of each clip's picture, 0 the first; the chance of R@1;
    and (language, text) written of each clip."""

    trial: Trial
    ranks: dict[str, np.ndarray]
    chance: np.ndarray
    told: list[tuple[str, str]]

    def of(self, language: str) -> np.ndarray:
        """bool (clips,): those in a language; "all" takes each."""
        return np.array([language in ("all", clip[1]) for clip in self.trial.clips])


def found_in(folder: Path, stamps: Sequence[Stamp], start: Path = PACKAGED) -> Iterator[tuple[str, Found]]:
    """Each trial by its name, with the baselines "as long" and "as long as the caption"."""
    known = [stamp for stamp in stamps if stamp.split == "train"]
    pictures = pictures_of(start, known)
    lengths, letters = [], []
    for stamp, embed in zip(known, pictures, strict=True):
        for language in SAID:
            if language in stamp.sounds and not is_unheard(stamp, language):
                seconds = len(samples_of(stamp.sounds[language])) / RATE
                lengths.append((language, seconds, embed))
                letters.append((language, len(stamp.captions[language]), seconds))
    for name, trial in trials(stamps).items():
        embeds = pictures if name == "known names" else pictures_of(start, trial.shown)
        ways, told = ways_of(folder, trial)
        right = [clip[3] for clip in trial.clips]
        found = {way: ranks((queries @ embeds.T).numpy(), right) for way, queries in ways.items()}
        found["as long"] = ranks(by_length(trial, embeds, lengths), right)
        found["as long as the caption"] = ranks(by_caption_length(trial, letters), right)
        yield name, Found(trial, found, np.array([len(places) / len(trial.shown) for places in right]), told)


def measure(folder: Path, stamps: Sequence[Stamp], start: Path = PACKAGED) -> list[str]:
    """Lines of tables."""
    said = {language: [spoken_words(stamp.captions[language]) for stamp in stamps
                       if stamp.split == "train" and language in stamp.sounds and not is_unheard(stamp, language)]
            for language in SAID}  # fmt: skip
    columns = ["as long", "as long as the caption", "its sound", "its text", "the true text"]
    lines = []
    for name, found in found_in(folder, stamps, start):
        lines += ["", f"{name}: {len(found.chance)} clips, {len(found.trial.shown)} pictures; MM finds by {WAY}"]
        lines.append(f"{'':5}{'clips':>6}{'':>6}{'chance':>8}  {'MM, 95 %':22}{'times chance':14}{'- as long':26}"
                     + "".join(f"{column:24}" for column in columns).rstrip())  # fmt: skip
        for language, most in ((language, most) for language in (*SAID, "all") for most in (1, 5, 10)):
            own = found.of(language)
            groups = [
                words_of(clip[0].captions["en"]) for clip, one in zip(found.trial.clips, own, strict=True) if one
            ]
            hits = {way: mean_score("recall", (rank[own] < most).astype(float)) for way, rank in found.ranks.items()}
            even = np.minimum(found.chance[own] * most, 1).mean()
            beside = compare(hits[WAY], hits["as long"], groups)
            lines.append(
                f"{language:5}{own.sum():>6}{f'R@{most}':>6}{even:>8.3f}  {_shown(hits[WAY], groups):22}"
                f"{hits[WAY].value / even:<14.1f}"
                f"{f'{beside.difference:+.3f} [{beside.low:+.3f}, {beside.high:+.3f}]':26}"
                + "".join(f"{_shown(hits[column], groups):24}" for column in columns).rstrip()
            )
        lines += _texts(found, said)
    return lines


def _texts(found: Found, said: dict[str, list[str]]) -> list[str]:
    """Word and letter error rates of what is written, beside always writing the most frequent words."""
    lines = [f"{'':5}{'clips':>6}  {'language':>8}  {'WER, 95 %':24}{'the most frequent words':26}CER"]
    for language in SAID:
        places = np.flatnonzero(found.of(language))
        true = [spoken_words(found.trial.clips[place][0].captions[language]) for place in places]
        ours, always = [found.told[place][1] for place in places], frequent_words(said[language])
        right = np.mean([found.told[place][0] == language for place in places])
        beside = wer([always] * len(true), true)
        lines.append(f"{language:5}{len(places):>6}  {right:>8.3f}  {_shown(wer(ours, true)):24}{_shown(beside):26}"
                     f"{cer(ours, true).value:.3f}")  # fmt: skip
    return lines


def _shown(score: Score, groups: list[str] | None = None) -> str:
    value, low, high = score.interval(groups)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("\n".join(measure(options.model, load_stamps())))


if __name__ == "__main__":
    main()
