"""What the drawing model and its tokenizer learn from: names and styles of emoji, with pairs that nobody trains on.

Styles are five vendors whose licences combine (Apache-2.0, MIT, CC-BY-4.0). A pair is a name in a style. A hash of the
name chooses for four names in ten one style in which the name is held out: every name and every style is trained on,
the pair is not. Names are the "seen" ones of emoji.py, which mm-tiny knows.

    tokenizer    STYLES without DEV_VENDOR, and without the held-out pairs; unseen styles are DEV_VENDOR, TEST_VENDOR
    drawing      STYLES without the held-out pairs
    names        each begins as a drawing of BEGINNING, which no prompt asks for, or of noto (`beginning_of`)
"""

import hashlib

import numpy as np
import torch

from .emoji import DEV_VENDOR, EmojiItem, load_items, pictures, split_of

SIZE = 64  # pixels
# The word of a style in a prompt -> the vendor.
STYLES = {
    "noto": "noto",
    "twemoji": DEV_VENDOR,
    "emojione": "emojione",
    "fluent": "fluent-emoji-flat",
}
TOKENIZER_VENDORS = ("noto", "noto-v1", "emojione", "fluent-emoji-flat", "fluent-emoji")
HELD_NAMES = 4  # names in ten that one style lacks
BEGINNING = "fluent-emoji"
NOTO_NAMES = 3  # names in ten that begin as their drawing in noto, of those which may begin either way


def held_style(concept: str) -> str | None:
    """The style in which a name is held out; None: it is trained on in every style."""
    number = int(hashlib.sha1(f"pair {concept}".encode()).hexdigest()[:8], 16)
    return list(STYLES)[number // 10 % len(STYLES)] if number % 10 < HELD_NAMES else None


def is_held(item: EmojiItem) -> bool:
    """Whether a drawing is of a held-out pair."""
    style = held_style(item.concept)
    return style is not None and STYLES[style] == item.vendor


def beginning_of(concept: str) -> str:
    """The vendor whose drawing a name begins as.

    Fluent's flat drawings are much like those of BEGINNING, so a name that is held out in fluent begins as noto's, and
    so do some others, from whom the model learns to draw fluent after noto.
    """
    held = held_style(concept)
    if held in ("fluent", "noto"):
        return STYLES["noto"] if held == "fluent" else BEGINNING
    number = int(hashlib.sha1(f"begins {concept}".encode()).hexdigest()[:8], 16)
    return STYLES["noto"] if number % 10 < NOTO_NAMES else BEGINNING


def beginnings() -> list[EmojiItem]:
    """For each name that is drawn, sorted by concept, the drawing that it begins as."""
    items = load_items([BEGINNING, STYLES["noto"]])
    held = [item for item in items if split_of(item.concept) == "seen" and beginning_of(item.concept) == item.vendor]
    return sorted(held, key=lambda item: item.concept)


def style_of(item: EmojiItem) -> str:
    """The style word of a drawing."""
    return next(word for word, vendor in STYLES.items() if vendor == item.vendor)


def drawing_items(held: bool) -> list[EmojiItem]:
    """The drawings of seen names in STYLES: those of held-out pairs, or the others."""
    items = load_items(STYLES.values())
    drawn: dict[str, int] = {}
    for item in items:
        drawn[item.concept] = drawn.get(item.concept, 0) + 1
    return [
        item
        for item in items
        # a name that only one style has is trained on
        if split_of(item.concept) == "seen" and (is_held(item) and drawn[item.concept] > 1) == held
    ]


def tokenizer_items() -> list[EmojiItem]:
    """What the tokenizer is trained on: every name but those for tests, no held-out pair."""
    items = load_items(TOKENIZER_VENDORS)
    return [item for item in items if split_of(item.concept) != "unseen_test" and not is_held(item)]


def pixels(items: list[EmojiItem]) -> torch.Tensor:
    """uint8 (n, 3, SIZE, SIZE), on white."""
    return torch.from_numpy(np.ascontiguousarray(pictures(items, SIZE).transpose(0, 3, 1, 2)))
