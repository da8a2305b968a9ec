"""Emoji as image-caption pairs: the same named concepts, drawn by eight vendors in five families of style.

A concept is a lower-case Unicode sequence without variation selectors ("1f469-200d-1f33e"); its caption is the
emojibase label ("woman farmer"). The concepts are those which Noto, Twemoji, OpenMoji and Fluent Flat all draw: 1594.
Only a hash of the concept decides its split, so a name is in every style or in none:

    seen        1301    trained on, in TRAIN_VENDORS only (6476 pictures)
    unseen_dev   153    names for choosing between models
    unseen_test  140    names for reporting

Styles are split too: DEV_VENDOR and TEST_VENDOR share no designer with TRAIN_VENDORS. Anything that is tuned looks at
DEV_VENDOR; TEST_VENDOR is opened once per release.
"""

import functools
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from .sources import data_directory, fetch, find_source

TRAIN_VENDORS = ("noto", "noto-v1", "emojione", "emojione-v1", "fluent-emoji-flat", "fluent-emoji")
DEV_VENDOR = "twemoji"
TEST_VENDOR = "openmoji"
VENDORS = (*TRAIN_VENDORS, DEV_VENDOR, TEST_VENDOR)

# The packs that say which character each icon draws, in the order in which their icon names are tried on the others.
_NAMING_VENDORS = ("noto", "twemoji", "fluent-emoji-flat", "openmoji")
_VARIATION_SELECTOR = "fe0f"
_FACING_RIGHT = "-200d-27a1"
_WHITE = 247  # a pixel is background where all of its channels are at least this


@dataclass(frozen=True)
class EmojiItem:
    """One drawing of one concept: `label` is the lower-case English caption, `tags` are emojibase's search words."""

    vendor: str
    concept: str
    label: str
    tags: tuple[str, ...]
    svg: str


def concept_key(hexcode: str) -> str:
    """The concept of a Unicode sequence such as "1F5DD-FE0F": lower case, variation selectors removed."""
    return "-".join(part for part in hexcode.lower().split("-") if part != _VARIATION_SELECTOR)


def fold(text: str) -> int:
    """A tenth, 0..9, that depends only on `text`."""
    return int(hashlib.sha1(text.encode("utf8")).hexdigest()[:8], 16) % 10


def split_of(concept: str) -> str:
    """ "seen", "unseen_dev" or "unseen_test". The right-facing variant of a concept goes with the concept."""
    return {0: "unseen_test", 1: "unseen_dev"}.get(fold(concept.removesuffix(_FACING_RIGHT)), "seen")


def _read_json(source_name: str, member: str, data_dir: str | Path | None) -> Any:
    """A JSON member of a pinned npm package."""
    with tarfile.open(fetch(find_source(source_name), data_dir)) as archive:
        file = archive.extractfile(f"package/{member}")
        if file is None:
            raise ValueError(f"{source_name} holds no file {member}")
        return json.load(file)


def emojibase(language: str, data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """What emojibase says of each emoji in a language: "hexcode", "label", "group", "tags" and more."""
    entries = _read_json("emojibase-data", f"{language}/data.json", data_dir)
    return [entry for entry in entries if "group" in entry]


@functools.lru_cache(maxsize=1)
def _naming(data_dir: Path) -> dict[str, dict[str, str]]:
    """For each naming vendor the icon name of each concept that it draws."""
    return {
        vendor: {
            concept_key(code): name
            for code, name in _read_json(f"@iconify-json/{vendor}", "chars.json", data_dir).items()
        }
        for vendor in _NAMING_VENDORS
    }


@functools.lru_cache(maxsize=1)
def _concepts(data_dir: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Label and tags of each concept that all naming vendors draw, sorted by concept."""
    entries = {
        concept_key(entry["hexcode"]): (entry["label"].lower().strip(), tuple(entry.get("tags", ())))
        for entry in emojibase("en", data_dir)
    }
    drawn = set.intersection(*(set(names) for names in _naming(data_dir).values()))
    return {concept: entries[concept] for concept in sorted(entries) if concept in drawn}


def _icon(icons: dict, name: str) -> dict | None:
    """The icon called `name` in an icon set, through a plain alias if need be.

    An alias that also turns or mirrors its parent is another picture: it counts as not drawn.
    """
    alias = icons.get("aliases", {}).get(name)
    if alias is not None and not {"rotate", "hFlip", "vFlip"} & set(alias):
        name = alias["parent"]
    return icons["icons"].get(name)


def _svg(icon: dict, icons: dict) -> str:
    """The icon as a standalone SVG document; its box comes from the icon, else from the icon set."""
    left, top = (icon.get(key, icons.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'


@functools.lru_cache(maxsize=len(VENDORS))
def _vendor_items(vendor: str, data_dir: Path) -> tuple[EmojiItem, ...]:
    """All drawings of one vendor, sorted by concept. For a vendor without its own list of characters the names are
    used."""
    icons = _read_json(f"@iconify-json/{vendor}", "icons.json", data_dir)
    naming = _naming(data_dir)
    lists = [naming[vendor]] if vendor in naming else list(naming.values())
    items = []
    for concept, (label, tags) in _concepts(data_dir).items():
        drawings = (_icon(icons, names[concept]) for names in lists)
        icon = next((drawing for drawing in drawings if drawing is not None), None)
        if icon is not None:
            items.append(EmojiItem(vendor, concept, label, tags, _svg(icon, icons)))
    return tuple(items)


def load_items(vendors: Iterable[str], data_dir: str | Path | None = None) -> list[EmojiItem]:
    """Every drawing of the given vendors, vendor by vendor, each sorted by concept; packs not there are fetched.

    Raises:
        ValueError: a vendor that is none of VENDORS, or a pack with a wrong checksum.
    """
    vendors = [vendors] if isinstance(vendors, str) else list(vendors)
    for vendor in vendors:
        if vendor not in VENDORS:
            raise ValueError(f"no vendor is called {vendor!r}; there are {', '.join(VENDORS)}")
    folder = data_directory(data_dir).resolve()
    return [item for vendor in vendors for item in _vendor_items(vendor, folder)]


def _to_square(image: Image.Image, color: tuple[int, ...]) -> Image.Image:
    """`image` in the middle of the smallest square of `color` that holds it."""
    side = max(image.size)
    square = Image.new(image.mode, (side, side), color)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def render_transparent(svg: str, size: int) -> Image.Image:
    """The drawing as an RGBA picture of size x size: the longer side fills it, the rest is transparent.

    Raises:
        ValueError: `svg` is no SVG document, or has no size.
    """
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, skip_system_fonts=True)
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    if image.height > size:
        png = resvg_py.svg_to_bytes(svg_string=svg, height=size, skip_system_fonts=True)
        image = Image.open(io.BytesIO(png)).convert("RGBA")
    return _to_square(image, (0, 0, 0, 0))


def render(svg: str, size: int) -> Image.Image:
    """The drawing as an RGB picture of size x size on white."""
    image = render_transparent(svg, size)
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    return canvas.convert("RGB")


def crop_to_content(image: Image.Image, size: int) -> Image.Image:
    """An RGB picture cut to the box of what is not white, padded to a square with white, resized to size x size.

    A pixel counts as white where its three channels are 247 or more. A picture without any other pixel is not cut.
    """
    content = np.asarray(image).min(axis=-1) < _WHITE  # (H, W)
    rows, columns = np.flatnonzero(content.any(axis=1)), np.flatnonzero(content.any(axis=0))
    if len(rows):
        image = image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    return _to_square(image, (255, 255, 255)).resize((size, size), Image.Resampling.BICUBIC)


def _draw(item: EmojiItem, size: int, crop: bool) -> Image.Image:
    """One picture. A cropped one is drawn at twice the size, so that enlarging its content does not blur it."""
    return crop_to_content(render(item.svg, 2 * size), size) if crop else render(item.svg, size)


def _vendor_pictures(vendor: str, size: int, crop: bool, folder: Path) -> np.ndarray:
    """uint8 (n, size, size, 3), memory-mapped: all items of a vendor in their order, drawn once and kept on disk."""
    items = _vendor_items(vendor, folder)
    digest = hashlib.sha256("".join(item.svg for item in items).encode("utf8")).hexdigest()[:8]
    path = folder / "pictures" / f"{vendor}-{size}{'-crop' if crop else ''}-{digest}.npy"
    if not path.exists():
        drawn = np.empty((len(items), size, size, 3), np.uint8)
        for index, item in enumerate(
            tqdm(items, desc=f"drawing {vendor} at {size} px", unit=" pictures", disable=None)
        ):
            drawn[index] = np.asarray(_draw(item, size, crop))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        with open(part, "wb") as file:
            np.save(file, drawn)
        os.replace(part, path)
    return np.load(path, mmap_mode="r")


def pictures(
    items: Sequence[EmojiItem], size: int = 128, crop: bool = False, data_dir: str | Path | None = None
) -> np.ndarray:
    """The drawings of `items` as uint8 RGB (len(items), size, size, 3) on white.

    Each vendor is drawn as a whole the first time and kept as one file per vendor, size and crop below
    `.data/pictures` (49 kB a picture at 128 px); later calls read from there.

    Args:
        crop: cut each drawing to its content and enlarge that to fill the square (see `crop_to_content`).

    Raises:
        ValueError: an item that `load_items` does not give for this folder, or a size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size} is no picture size; it is a number of pixels, 1 or more")
    folder = data_directory(data_dir).resolve()
    drawn = np.empty((len(items), size, size, 3), np.uint8)
    for vendor in dict.fromkeys(item.vendor for item in items):
        place = {known: index for index, known in enumerate(load_items([vendor], folder))}
        wanted = [index for index, item in enumerate(items) if item.vendor == vendor]
        unknown = [items[index].concept for index in wanted if items[index] not in place]
        if unknown:
            raise ValueError(f"{len(unknown)} items of {vendor} are not from load_items, the first is {unknown[0]!r}")
        drawn[wanted] = _vendor_pictures(vendor, size, crop, folder)[[place[items[index]] for index in wanted]]
    return drawn
