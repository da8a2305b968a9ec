"""Pictures by a spoken name: recalls beside those of a sound's length and of chance, with intervals.

    python -m mm.recipes.spoken_names_scores runs/spoken-names/model

new names          clips of the test stamps among their 207 pictures; no picture, caption or clip of them was learned
known names        clips of training stamps that training did not hear, among all 653 pictures of training: it heard
                   their names in this language from espeak-ng only, and read aloud in other languages

Clips whose sound, or whose caption read aloud in their language, training has are left out of both. French, Spanish
and Russian.
"""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor

from ..evaluation.scores import Score, mean_score
from ..evaluation.significance import compare
from ..modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from .spoken_names_data import RATE, SAID, is_unheard, samples_of
from .stamps import SPOKEN, Stamp, load_stamps, picture_of, words_of

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


# -- embeddings -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def heard(model: Any, processor: Any, sounds: Sequence[np.ndarray], batch_size: int = 32) -> torch.Tensor:
    """float32 (n, P)."""
    model.eval()
    parts = []
    for start in range(0, len(sounds), batch_size):
        own = [[samples.astype(np.float32) / 32768] for samples in sounds[start : start + batch_size]]
        read = processor(audio=own, sampling_rate=RATE, return_tensors="pt")
        parts.append(model.embed_read(read))
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


def recalls(model: Any, processor: Any, trial: Trial) -> dict[str, float]:
    """R@1, R@5 and R@10 of pictures by sounds."""
    scores = heard(model, processor, [clip[2] for clip in trial.clips]) @ shown(model, processor, trial.shown).T
    found = ranks(scores.numpy(), [clip[3] for clip in trial.clips])
    return {f"dev_r{k}": round(float((found < k).mean()), 4) for k in (1, 5, 10)}


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


def measure(folder: Path, stamps: Sequence[Stamp]) -> list[str]:
    """Lines of tables."""
    model, processor = MMForImageTextRetrieval.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    known = [stamp for stamp in stamps if stamp.split == "train"]
    pictures = shown(model, processor, known)
    lengths, letters = [], []
    for stamp, embed in zip(known, pictures, strict=True):
        for language in SAID:
            if language in stamp.sounds and not is_unheard(stamp, language):
                seconds = len(samples_of(stamp.sounds[language])) / RATE
                lengths.append((language, seconds, embed))
                letters.append((language, len(stamp.captions[language]), seconds))
    lines = []
    for name, trial in trials(stamps).items():
        if name == "dev":
            continue
        embeds = pictures if name == "known names" else shown(model, processor, trial.shown)
        sounds = heard(model, processor, [clip[2] for clip in trial.clips])
        right = [clip[3] for clip in trial.clips]
        chance = np.array([len(places) / len(trial.shown) for places in right])
        found = {
            "MM": ranks((sounds @ embeds.T).numpy(), right),
            "as long": ranks(by_length(trial, embeds, lengths), right),
            "as long as the caption": ranks(by_caption_length(trial, letters), right),
        }
        lines += ["", f"{name}: {len(trial.clips)} clips, {len(trial.shown)} pictures"]
        lines.append(f"{'':10}{'clips':>6}{'':>6}{'chance':>8}  {'MM, 95 %':24}{'as long':24}{'difference':24}"
                     f"{'as long as the caption':24}")  # fmt: skip
        for language in (*SAID, "all"):
            own = np.array([language in ("all", clip[1]) for clip in trial.clips])
            groups = [words_of(clip[0].captions["en"]) for clip, one in zip(trial.clips, own, strict=True) if one]
            for most in (1, 5, 10):
                hits = {way: mean_score("recall", (rank[own] < most).astype(float)) for way, rank in found.items()}
                even = np.minimum(chance[own] * most, 1).mean()
                beside = compare(hits["MM"], hits["as long"], groups)
                lines.append(
                    f"{language:10}{own.sum():>6}{f'R@{most}':>6}{even:>8.3f}  {_shown(hits['MM'], groups):24}"
                    f"{_shown(hits['as long'], groups):24}"
                    f"{f'{beside.difference:+.3f} [{beside.low:+.3f}, {beside.high:+.3f}]':24}"
                    f"{_shown(hits['as long as the caption'], groups):24}".rstrip()
                )
        lines += _texts(model, processor, trial, sounds, letters) if name == "new names" else []
    return lines


def _texts(model: Any, processor: Any, trial: Trial, sounds: torch.Tensor, letters: list) -> list[str]:
    """Captions by spoken captions, among those of the language, beside the length of the clip."""
    lines = ["", "captions for clips, among the test captions of the language"]
    lines.append(f"{'':10}{'clips':>6}{'':>6}{'chance':>8}  {'MM, 95 %':24}{'as long as the caption':24}difference")
    for language in SAID:
        places = [place for place, clip in enumerate(trial.clips) if clip[1] == language]
        texts = sorted({trial.clips[place][0].captions[language] for place in places})
        right = [[texts.index(trial.clips[place][0].captions[language])] for place in places]
        ours = ranks((sounds[places] @ read(model, processor, texts).T).numpy(), right)
        points = np.array([(count, seconds) for of, count, seconds in letters if of == language])
        line = np.polyfit(points[:, 0], points[:, 1], 1)
        told = np.polyval(line, [len(text) for text in texts])
        theirs = ranks(np.stack([-np.abs(told - len(trial.clips[place][2]) / RATE) for place in places]), right)
        for most in (1, 5):
            one, other = (mean_score("recall", (rank < most).astype(float)) for rank in (ours, theirs))
            beside = compare(one, other)
            lines.append(
                f"{language:10}{len(places):>6}{f'R@{most}':>6}{most / len(texts):>8.3f}  {_shown(one):24}"
                f"{_shown(other):24}{beside.difference:+.3f} [{beside.low:+.3f}, {beside.high:+.3f}]"
            )
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
