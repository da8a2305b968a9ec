"""What `spoken_names.py` learns from: things with pictures, names in ten languages, and sounds that say them.

    stamps of train ──┬─ pictures, captions, recordings ─┐   the same English words: one thing
    known emoji ──────┴─ drawings, names, espeak-ng ─────┴─► Things ─► batches, a function of (seed, index)

n pictures of width Dv from the frozen tower's mean, M things, P their embeddings' width.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import BertModel, BertTokenizer

from ..processing.sounds.load import load_sound, sound_tensors
from ..processing.sounds.masks import SoundAugmentation
from .augment import augment, draws
from .drawings import SEED, SIZE, normalised
from .emoji import TRAIN_VENDORS, crop_to_content, load_items, pictures, split_of
from .languages import names_by_language
from .sources import minilm_directory
from .spoken_captions import said
from .stamps import SPOKEN, Stamp, picture_of, words_of

RATE = 16000
SAID = ("fr", "es", "ru")  # by espeak-ng, and what is measured
ARTICLES = {"fr": ("", "un ", "une ", "des "), "es": ("", "un ", "una ", "unos "), "ru": ("",)}
UNHEARD = {3: "fr", 4: "es", 5: "ru"}  # of the stamps of a fold of train no recording in this language is heard
RECORDED = 0.6  # share of the sounds of a batch that are recordings
LONGEST = 4.0  # seconds of a sound in training


@dataclass
class Things:
    """Things by number: their English words, the numbers of pictures, texts and sounds of each."""

    words: list[str] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)
    pictures: list[int] = field(default_factory=list)  # the thing of each picture
    texts: list[tuple[int, str]] = field(default_factory=list)
    recordings: list[tuple[int, np.ndarray]] = field(default_factory=list)  # int16 samples at RATE
    said: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def of(self, words: str) -> int:
        if words not in self.number:
            self.number[words] = len(self.words)
            self.words.append(words)
        return self.number[words]


def is_unheard(stamp: Stamp, language: str) -> bool:
    """Whether a recording of a known stamp is kept out of training."""
    return UNHEARD.get(stamp.fold) == language


def samples_of(file: Path) -> np.ndarray:
    """int16 (n,) at RATE."""
    return (load_sound(file, RATE) * 32767).clip(-32768, 32767).astype(np.int16)


def collect(stamps: Sequence[Stamp], phrases: int, folder: Path) -> Things:
    """Things of the training stamps and of the known emoji, with their texts and sounds; pictures in the order of
    `training_pixels`."""
    things = Things()
    known, shown = [stamp for stamp in stamps if stamp.split == "train"], []
    for stamp in known:
        thing = things.of(words_of(stamp.captions["en"]))
        shown.append(thing)
        for language in ("en", *SPOKEN):
            if language in stamp.captions:
                things.texts.append((thing, stamp.captions[language]))
    things.recordings = [(things.of(words), sound) for words, sound in recorded(known, folder / "recordings.npz")]
    items = [item for item in load_items(TRAIN_VENDORS) if split_of(item.concept) == "seen"]
    things.pictures = [*(things.of(words_of(item.label)) for item in items), *shown]
    labels = {item.concept: item.label for item in items}
    names = names_by_language(labels, languages=("en", "de", *SAID))
    for texts in names.values():
        things.texts += [(things.of(words_of(labels[concept])), text) for concept, text in texts.items()]
    spoken = [(concept, language) for language in SAID for concept in sorted(labels)]
    rng = np.random.default_rng(SEED)
    chosen = [spoken[place] for _ in range(-(-phrases // len(spoken))) for place in rng.permutation(len(spoken))]
    told = []
    for concept, language in chosen[:phrases]:
        text = str(rng.choice(ARTICLES[language])) + names[language][concept]
        told.append((language, text, things.of(words_of(labels[concept]))))
    for stamp in known:  # each in two voices; a third of them is heard in no other way
        thing = things.of(words_of(stamp.captions["en"]))
        told += [(language, stamp.captions[language], thing) for language in SAID if language in stamp.captions] * 2
    sounds = synthesised([(language, text) for language, text, _ in told], folder / f"said-{len(told)}.npz")
    things.said = [(thing, sound) for (_, _, thing), sound in zip(told, sounds, strict=True)]
    return things


def recorded(known: Iterable[Stamp], file: Path) -> list[tuple[str, np.ndarray]]:
    """Recordings that are heard in training with the words of their things, each sound of a thing once; kept in
    `file`."""
    if not file.exists():
        found: dict[tuple[str, bytes], np.ndarray] = {}
        for stamp in tqdm(list(known), desc="recordings", unit=" stamps", disable=None):
            for language, sound in stamp.sounds.items():
                if language in SPOKEN and not is_unheard(stamp, language):
                    samples = samples_of(sound)
                    found.setdefault((words_of(stamp.captions["en"]), samples.tobytes()), samples)
        _keep(file, list(found.values()), words=[words for words, _ in found])
    kept = np.load(file)
    return list(zip(map(str, kept["words"]), np.split(kept["samples"], kept["ends"][:-1]), strict=True))


def _keep(file: Path, sounds: list[np.ndarray], **more: Any) -> None:
    part = file.with_suffix(".part.npz")
    np.savez(part, samples=np.concatenate(sounds), ends=np.cumsum([len(one) for one in sounds]), **more)
    part.replace(file)


# -- sounds -----------------------------------------------------------------------------------------------------------


def synthesised(told: Sequence[tuple[str, str]], file: Path) -> list[np.ndarray]:
    """(language, text) as espeak-ng says it, in a voice, speed and pitch of its own; kept in `file`.

    Raises: RuntimeError if espeak-ng is missing or fails.
    """

    def one(language: str, text: str, rng: np.random.Generator) -> np.ndarray:
        return said(language, text, rng, slowest=110, fastest=190)

    if not file.exists():
        generators = np.random.default_rng(SEED).spawn(len(told))
        with ThreadPoolExecutor(2) as pool:
            jobs = pool.map(one, *zip(*told, strict=True), generators)
            made = list(tqdm(jobs, total=len(told), desc="espeak-ng", unit=" phrases", disable=None))
        _keep(file, made)
    kept = np.load(file)
    return np.split(kept["samples"], kept["ends"][:-1])


def changed(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another speed (and with it pitch), loudness, start and noise: float32."""
    speed = rng.uniform(0.85, 1.18)
    places = np.arange(0, len(samples) - 1, speed)
    peak = max(1, int(np.abs(samples).max()))
    sound = np.interp(places, np.arange(len(samples)), samples) * (10 ** rng.uniform(-1, -0.05) / peak)
    sound = np.concatenate([np.zeros(int(rng.uniform(0, 0.15) * RATE)), sound])[: int(LONGEST * RATE)]
    return (sound + rng.standard_normal(len(sound)) * 10 ** rng.uniform(-4.5, -2)).astype(np.float32)


class Heard(Dataset):
    """Endless batches of sounds with their things and one picture of each thing that has any; batch `index` is a
    function of (seed, index), so that a run can be resumed."""

    def __init__(self, things: Things, extractor: Any, batch_size: int, seed: int):
        self.things, self.extractor, self.batch_size, self.seed = things, extractor, batch_size, seed
        self.hiding = SoundAugmentation(time_masks=2, time_width=0.1, frequency_masks=2, frequency_width=0.2)
        self.shown = pictures_by_thing(things)

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        kinds = (self.things.recordings, self.things.said or self.things.recordings)
        chosen = [kinds[int(rng.random() >= RECORDED)] for _ in range(self.batch_size)]
        pairs = [kind[rng.integers(len(kind))] for kind in chosen]
        sounds: list[list[np.ndarray | None]] = [[changed(samples, rng)] for _, samples in pairs]
        made = sound_tensors(self.extractor, sounds, self.hiding, rng.spawn(len(sounds)))
        made["thing"] = torch.tensor([thing for thing, _ in pairs])
        made["shown"] = torch.tensor([rows[rng.integers(len(rows))] for rows in self.shown])
        return made


def pictures_by_thing(things: Things) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in things.words]
    for row, thing in enumerate(things.pictures):
        rows[thing].append(row)
    return rows


class Seen(Dataset):
    """Endless batches of pictures and texts with their things."""

    def __init__(self, things: Things, tokenizer: Any, batch_size: int, seed: int, views: int):
        self.things, self.tokenizer, self.batch_size, self.seed, self.views = (
            things, tokenizer, batch_size, seed, views
        )  # fmt: skip

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, index))
        rows = rng.integers(len(self.things.pictures), size=self.batch_size)
        texts = [self.things.texts[place] for place in rng.integers(len(self.things.texts), size=self.batch_size)]
        read = self.tokenizer(
            [text for _, text in texts], padding=True, truncation=True, max_length=48, return_tensors="pt"
        )
        return {
            "rows": torch.from_numpy(rows),
            "view": torch.from_numpy(rng.integers(self.views, size=self.batch_size)),
            "seen": torch.tensor([self.things.pictures[row] for row in rows]),
            "input_ids": read["input_ids"],
            "attention_mask": read["attention_mask"],
            "read": torch.tensor([thing for thing, _ in texts]),
        }


# -- pictures and the meaning of words --------------------------------------------------------------------------------


def stamp_pixels(stamps: Sequence[Stamp]) -> torch.Tensor:
    """uint8 (n, 3, SIZE, SIZE), cut to the content."""
    drawn = [np.asarray(crop_to_content(picture_of(stamp.file), SIZE)) for stamp in stamps]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)


def training_pixels(stamps: Sequence[Stamp]) -> torch.Tensor:
    """uint8 (n, 3, SIZE, SIZE): the known emoji in the training styles, then the training stamps."""
    items = [item for item in load_items(TRAIN_VENDORS) if split_of(item.concept) == "seen"]
    known = stamp_pixels([stamp for stamp in stamps if stamp.split == "train"])
    return torch.cat([torch.from_numpy(pictures(items, SIZE, crop=True)).permute(0, 3, 1, 2), known])


@torch.no_grad()
def pooled_features(tower: Any, pixels: torch.Tensor, views: int, file: Path) -> torch.Tensor:
    """float32 (views, n, Dv) of the frozen tower, of so many augmented views; kept in `file`."""
    if not file.exists():
        table = []
        for number in range(views):
            parts = []
            for start in tqdm(range(0, len(pixels), 32), desc=f"view {number}", unit=" batches", disable=None):
                drawn = draws(list(range(start, min(start + 32, len(pixels)))), number, SEED)
                part = augment(pixels[start : start + 32].float() / 255, drawn)
                parts.append(tower(pixel_values=normalised(part)).pooler_output)
            table.append(torch.cat(parts).half())
        np.save(file, torch.stack(table).numpy())
    return torch.from_numpy(np.load(file)).float()


@torch.no_grad()
def minilm_embeddings(texts: Sequence[str]) -> torch.Tensor:
    """float32 (n, 384), of length 1, of English texts."""
    folder = minilm_directory()
    model = BertModel.from_pretrained(folder).eval()
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=True)
    parts = []
    for start in range(0, len(texts), 64):
        read = tokenizer(list(texts[start : start + 64]), padding=True, truncation=True, return_tensors="pt")
        states, mask = model(**read).last_hidden_state, read["attention_mask"][..., None]
        parts.append(normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(parts)


def meanings(texts: Sequence[str], width: int) -> torch.Tensor:
    """float32 (M, width), of length 1: MiniLM's embeddings by their principal components."""
    found = minilm_embeddings(texts)
    found = found - found.mean(0)
    components = torch.linalg.svd(found, full_matrices=False)[2][:width]
    return normalize(found @ components.T, dim=-1)
