"""What `spoken_names.py` learns from: sounds with their words in three languages, things with pictures and names.

    stamps of train ── recordings ──────────────────────────────────┐
    their captions, names of emoji, words of both ── espeak-ng ─────┴─► Spoken, for the model that hears

    stamps of train ── pictures, captions ── the same English words: one thing ─┐
    known emoji ────── drawings, names, search words ───────────────────────────┴─► Things, for the one that finds

n pictures or sounds, M things.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..processing.sounds.load import load_sound, sound_tensors
from ..processing.sounds.masks import SoundAugmentation
from .drawings import SEED, SIZE
from .emoji import TRAIN_VENDORS, concept_key, crop_to_content, emojibase, load_items, pictures, split_of
from .languages import names_by_language
from .spoken_captions import Spoken, said, spoken_words
from .spoken_windows import changed
from .stamps import SPOKEN, Stamp, picture_of, words_of

RATE = 16000
SAID = ("fr", "es", "ru")
ACCENTS = {"fr": ("fr", "fr-be", "fr-ch"), "es": ("es", "es-419"), "ru": ("ru",)}  # of espeak-ng
ARTICLES = {"fr": ("un", "une", "des", "le", "la"), "es": ("un", "una", "la", "el", "de"), "ru": ("и", "на", "с")}
UNHEARD = {3: "fr", 4: "es", 5: "ru"}  # of the stamps of a fold of train no recording in this language is heard


def is_unheard(stamp: Stamp, language: str) -> bool:
    """Whether a recording of a known stamp is kept out of training."""
    return UNHEARD.get(stamp.fold) == language


def is_spoken(caption: str) -> bool:
    """Whether there is one way of reading it: no digits and no signs."""
    return bool(spoken_words(caption)) and not any(sign.isdigit() or sign in "$€=()" for sign in caption)


def samples_of(file: Path) -> np.ndarray:
    """int16 (n,) at RATE."""
    return (load_sound(file, RATE) * 32767).clip(-32768, 32767).astype(np.int16)


def recorded(known: Iterable[Stamp], file: Path) -> list[Spoken]:
    """The recordings that training hears, each sound once; kept in `file`."""
    if not file.exists():
        found: dict[bytes, Spoken] = {}
        for stamp in tqdm(list(known), desc="recordings", unit=" stamps", disable=None):
            for language in SAID:
                if (
                    language in stamp.sounds
                    and not is_unheard(stamp, language)
                    and is_spoken(stamp.captions[language])
                ):
                    samples = samples_of(stamp.sounds[language])
                    text = spoken_words(stamp.captions[language])
                    found.setdefault(samples.tobytes(), Spoken(text, samples, language))
        _keep(file, list(found.values()))
    return _kept(file)


def phrases(known: Sequence[Stamp], count: int) -> list[tuple[str, str]]:
    """`count` (language, text): captions, names and search words of emoji, and one to four of their words; a third of
    each."""
    rng, made = np.random.default_rng(SEED), []
    sources = {}
    for language in SAID:
        captions = {spoken_words(stamp.captions[language]) for stamp in known
                    if language in stamp.captions and is_spoken(stamp.captions[language])}  # fmt: skip
        entries = emojibase(language)
        names = {text for entry in entries for text in (entry["label"], *entry.get("tags", ()))}
        names = {spoken_words(text) for text in names if is_spoken(text)}
        words = {word for text in captions | names for word in text.split()}
        sources[language] = [sorted(some) for some in (captions, names, words)]
    for _ in range(count):
        language = SAID[rng.integers(len(SAID))]
        kind = rng.integers(3)
        some = sources[language][kind]
        if kind < 2:
            made.append((language, some[rng.integers(len(some))]))
            continue
        few = [some[number] for number in rng.integers(len(some), size=rng.integers(1, 5))]
        made.append((language, " ".join([rng.choice(ARTICLES[language]), *few] if rng.random() < 0.5 else few)))
    return made


def synthesised(told: Sequence[tuple[str, str]], file: Path) -> list[Spoken]:
    """(language, text) as espeak-ng says it, in an accent, a voice, speed and pitch of its own; kept in `file`.

    Raises: RuntimeError if espeak-ng is missing or fails.
    """

    def one(language: str, text: str, rng: np.random.Generator) -> Spoken:
        accent = str(rng.choice(ACCENTS[language]))
        return Spoken(text, said(accent, text, rng, slowest=110, fastest=190), language)

    if not file.exists():
        generators = np.random.default_rng(SEED).spawn(len(told))
        with ThreadPoolExecutor(2) as pool:
            jobs = pool.map(one, *zip(*told, strict=True), generators)
            _keep(file, list(tqdm(jobs, total=len(told), desc="espeak-ng", unit=" phrases", disable=None)))
    return _kept(file)


def _keep(file: Path, sounds: Sequence[Spoken]) -> None:
    part = file.with_suffix(".part.npz")
    told: dict[str, Any] = {"texts": [one.text for one in sounds], "languages": [one.language for one in sounds]}
    samples = [one.samples for one in sounds]
    np.savez(part, samples=np.concatenate(samples), ends=np.cumsum([len(one) for one in samples]), **told)
    part.replace(file)


def _kept(file: Path) -> list[Spoken]:
    kept = np.load(file)
    parts = np.split(kept["samples"], kept["ends"][:-1])
    return [Spoken(str(text), samples, str(language))
            for text, samples, language in zip(kept["texts"], parts, kept["languages"], strict=True)]  # fmt: skip


# -- things -----------------------------------------------------------------------------------------------------------


@dataclass
class Things:
    """Things by number: their English words, the thing of each picture, and texts with their things."""

    words: list[str] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)
    pictures: list[int] = field(default_factory=list)
    texts: list[tuple[int, str]] = field(default_factory=list)

    def of(self, words: str) -> int:
        if words not in self.number:
            self.number[words] = len(self.words)
            self.words.append(words)
        return self.number[words]

    def called(self, thing: int, text: str) -> None:
        if spoken_words(text):  # a text is read as a sound tells it
            self.texts.append((thing, spoken_words(text)))


def collect(stamps: Iterable[Stamp]) -> Things:
    """Things of the training stamps and of the known emoji, with their texts; pictures in the order of
    `training_pixels`."""
    things, shown = Things(), []
    for stamp in (stamp for stamp in stamps if stamp.split == "train"):
        thing = things.of(words_of(stamp.captions["en"]))
        shown.append(thing)
        for language in ("en", *SPOKEN):
            things.called(thing, stamp.captions.get(language, ""))
    items = [item for item in load_items(TRAIN_VENDORS) if split_of(item.concept) == "seen"]
    things.pictures = [*(things.of(words_of(item.label)) for item in items), *shown]
    labels = {item.concept: item.label for item in items}
    for language, names in names_by_language(labels, languages=("en", "de", *SAID)).items():
        search = {concept_key(entry["hexcode"]): entry.get("tags", ()) for entry in emojibase(language)}
        for concept, name in names.items():
            thing = things.of(words_of(labels[concept]))
            for text in (name, *search.get(concept, ())):
                things.called(thing, text)
    return things


class Read(Dataset):
    """Endless batches of texts with their things; batch `index` is a function of (seed, index), so that a run can be
    resumed."""

    def __init__(self, things: Things, tokenizer: Any, batch_size: int, seed: int):
        self.things, self.tokenizer, self.batch_size, self.seed = things, tokenizer, batch_size, seed

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        texts = [self.things.texts[place] for place in rng.integers(len(self.things.texts), size=self.batch_size)]
        rows = self.tokenizer(
            [text for _, text in texts], padding=True, truncation=True, max_length=48, return_tensors="pt"
        )
        return {
            "input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"],
            "thing": torch.tensor([thing for thing, _ in texts]),
        }  # fmt: skip


class Told(Dataset):
    """Endless batches of sounds, each alone in a window, half of them recordings, with the numbers of their texts."""

    def __init__(
        self, read: list[Spoken], said: list[Spoken], texts: Sequence[str], extractor: Any, batch_size: int, seed: int
    ):
        longest = extractor.chunk_length - 0.1
        self.kinds = [[one for one in kind if one.seconds < longest] for kind in (read, said)]
        self.number = {text: number for number, text in enumerate(texts)}
        self.extractor, self.batch_size, self.seed = extractor, batch_size, seed
        self.hiding = SoundAugmentation(time_masks=1, time_width=0.05, frequency_masks=1, frequency_width=0.15)

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        chosen = [self.kinds[rng.integers(2)] for _ in range(self.batch_size)]
        spoken = [kind[rng.integers(len(kind))] for kind in chosen]
        sounds: list[list[np.ndarray | None]] = [[self._placed(one.samples, rng)] for one in spoken]
        made = sound_tensors(self.extractor, sounds, self.hiding, rng.spawn(len(sounds)))
        return {**made, "told": torch.tensor([self.number[one.text] for one in spoken])}

    def _placed(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """At another speed and loudness, somewhere in the first half second, with noise: float32."""
        sound = np.zeros(self.extractor.n_samples, np.float32)
        part = changed(samples, rng)[: len(sound)]
        place = int(rng.integers(min(RATE // 2, len(sound) - len(part)) + 1))
        sound[place : place + len(part)] = part
        return sound + rng.standard_normal(len(sound), np.float32) * np.float32(10 ** rng.uniform(-4.5, -2))


# -- pictures ---------------------------------------------------------------------------------------------------------


def stamp_pixels(stamps: Sequence[Stamp]) -> torch.Tensor:
    """uint8 (n, 3, SIZE, SIZE), cut to the content."""
    drawn = [np.asarray(crop_to_content(picture_of(stamp.file), SIZE)) for stamp in stamps]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)


def training_pixels(stamps: Sequence[Stamp]) -> torch.Tensor:
    """uint8 (n, 3, SIZE, SIZE): the known emoji in the training styles, then the training stamps."""
    items = [item for item in load_items(TRAIN_VENDORS) if split_of(item.concept) == "seen"]
    known = stamp_pixels([stamp for stamp in stamps if stamp.split == "train"])
    return torch.cat([torch.from_numpy(pictures(items, SIZE, crop=True)).permute(0, 3, 1, 2), known])
