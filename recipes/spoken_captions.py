"""Spoken Spanish: the captions of Tux Paint's stamps as a volunteer read them, and phrases that espeak-ng says.

    recordings ── caption or sound in common: one group ── SHA-1 ── train, dev, test
    captions of train, names of emoji, words of a dictionary ── espeak-ng, many voices ── phrases for training

Stamps and dictionary are GPL-2 and later, the names MIT; they are fetched when they are needed (`sources.py`).
espeak-ng must be installed.
"""

import hashlib
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..processing.sounds.load import load_sound
from .emoji import emojibase
from .sources import data_directory, debian_directory

RATE = 16000
LANGUAGE = "es"
ACCENTS = ("es", "es-419")
VOICES = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
_SPOKEN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*'?")
_NEVER_SPOKEN = re.compile(r"[\d$€=()]")


@dataclass(frozen=True)
class Spoken:
    """What is said, in small letters and without punctuation, its samples, int16 (n,) at RATE, and its language."""

    text: str
    samples: np.ndarray
    language: str = LANGUAGE

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def spoken_words(text: str) -> str:
    """ "¡Un Gato, allí!" -> "un gato allí"."""
    return " ".join(_SPOKEN.findall(text.lower().replace("’", "'")))


def split_of(group: str) -> str:
    """ "test" and "dev": two tenths and one tenth of the groups; the others are "train"."""
    fold = int(hashlib.sha1(group.encode("utf-8")).hexdigest()[:8], 16) % 10
    return "test" if fold < 2 else "dev" if fold == 2 else "train"


def recordings(data_dir: str | Path | None = None) -> dict[str, list[Spoken]]:
    """The recordings of each split, each sound once. Neither a sound nor a caption is in two splits.

    Captions with digits or signs, which several ways of reading have, are left out.
    """
    root = debian_directory("tuxpaint-stamps-default", data_dir) / "usr/share/tuxpaint/stamps"
    found: dict[str, tuple[str, Path]] = {}
    group_of: dict[str, str] = {}
    for path in sorted(root.rglob(f"*_desc_{LANGUAGE}.ogg")):
        caption = _caption(path.with_name(path.name.replace(f"_desc_{LANGUAGE}.ogg", ".txt")))
        text = spoken_words(caption)
        if not text or _NEVER_SPOKEN.search(caption):
            continue
        sound = hashlib.sha1(path.read_bytes()).hexdigest()
        ends = sorted(_first_of(group_of, name) for name in (text, sound))
        group_of[ends[1]] = ends[0]
        found.setdefault(sound, (text, path))
    splits: dict[str, list[Spoken]] = {"train": [], "dev": [], "test": []}
    for sound, (text, path) in sorted(found.items()):
        samples = (load_sound(path, RATE) * 32767).clip(-32768, 32767).astype(np.int16)
        splits[split_of(_first_of(group_of, sound))].append(Spoken(text, samples))
    return splits


def _first_of(group_of: dict[str, str], name: str) -> str:
    """The name that stands for the group of `name`."""
    while group_of.setdefault(name, name) != name:
        name = group_of[name]
    return name


def _caption(path: Path) -> str:
    if not path.is_file():
        return ""
    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        if line.startswith(f"{LANGUAGE}.utf8="):
            return line.removeprefix(f"{LANGUAGE}.utf8=").strip()
    return ""


def phrases(captions: list[str], count: int, data_dir: str | Path | None = None) -> list[str]:
    """`count` texts: captions, names of emoji, and one to four words of a dictionary, often with an article; a third
    of each."""
    words = (debian_directory("wspanish", data_dir) / "usr/share/dict/spanish").read_text(encoding="utf-8").split()
    words = [word for word in words if _SPOKEN.fullmatch(word) and word == word.lower() and len(word) < 13]
    entries = emojibase(LANGUAGE, data_dir)
    names = {text for entry in entries for text in (entry["label"], *entry.get("tags", ()))}
    sources = [sorted(set(captions)), sorted({spoken_words(name) for name in names if not _NEVER_SPOKEN.search(name)})]
    rng, made = np.random.default_rng(0), []
    for _ in range(count):
        kind = rng.integers(3)
        if kind < 2:
            made.append(sources[kind][rng.integers(len(sources[kind]))])
            continue
        few = [words[number] for number in rng.integers(len(words), size=rng.integers(1, 5))]
        made.append(" ".join([rng.choice(["un", "una", "la", "el", "de"]), *few] if rng.random() < 0.6 else few))
    return made


def synthesised(texts: list[str], seed: int, file: Path) -> list[Spoken]:
    """Each text in a voice, speed and pitch of its own, kept in `file`.

    Raises: RuntimeError if espeak-ng is missing or fails.
    """
    if not file.exists():
        rng = np.random.default_rng(seed)
        sounds = [said(str(rng.choice(ACCENTS)), text, rng) for text in tqdm(texts, desc="espeak-ng", unit=" phrases")]
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
            np.savez(part, samples=np.concatenate(sounds), ends=np.cumsum([len(one) for one in sounds]), texts=texts)
        Path(part.name).replace(file)
    kept = np.load(file)
    return [
        Spoken(str(text), samples)
        for text, samples in zip(kept["texts"], np.split(kept["samples"], kept["ends"][:-1]), strict=True)
    ]


def said(language: str, text: str, rng: np.random.Generator, slowest: int = 120, fastest: int = 200) -> np.ndarray:
    """int16 samples of what espeak-ng says, in one of VOICES, at some words a minute below `fastest`; without the
    silence around it. Raises: RuntimeError where espeak-ng is not installed, or fails."""
    command = ["espeak-ng", "-v", f"{language}+{rng.choice(VOICES)}", "-s", str(rng.integers(slowest, fastest))]
    command += ["-p", str(rng.integers(25, 75)), "--stdout", "--", text]
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        raise RuntimeError("'espeak-ng' is needed to say texts and is not installed") from None
    if done.returncode != 0:
        raise RuntimeError(f"espeak-ng failed for {text!r}:\n{done.stderr.decode('utf-8', 'replace')}")
    samples = np.frombuffer(done.stdout[44:], np.int16)  # after the head of a WAV whose length is not known yet
    sound = load_sound({"array": samples, "sampling_rate": 22050}, RATE)
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    sound = sound[max(0, loud[0] - 800) : loud[-1] + 800] if len(loud) else sound
    return (sound * 32767).clip(-32768, 32767).astype(np.int16)


def cache_file(name: str, data_dir: str | Path | None = None) -> Path:
    return data_directory(data_dir) / "extracted" / "spoken" / name
