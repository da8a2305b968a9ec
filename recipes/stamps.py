"""Tux Paint's stamps: 950 photographs and drawings with captions in many languages, read aloud by volunteers in nine.

    python -m mm.recipes.stamps runs/stamps      # pictures on white, and captions as `mm train` reads them

    rows ── caption or picture in common: one group ── SHA-1 of its smallest caption ── train 653, dev 90, test 207

A caption of the test rows is in no other split. The package is GPL-2 and later and is fetched when it is needed
(`sources.py`); nothing of it is part of this one.
"""

import argparse
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .emoji import crop_to_content, fold
from .sources import data_directory, debian_directory

SPOKEN = ("fr", "es", "ru", "be", "ca", "ro", "bg", "el", "da")  # languages with more than 300 recordings
SIDE = 256  # pixels of the longer side of what is drawn from SVG
ALIKE_BITS, ALIKE_COLOURS = 3, 12.0  # up to these two pictures are one
_LINE = re.compile(r"([\w@]+)\.utf8=(.*)")
_FINE = Image.Resampling.LANCZOS
_LEADING = re.compile(r"^(?:a|an|the|some) ")


@dataclass(frozen=True)
class Stamp:
    """A row: its name below the stamps' folder, its picture's file, captions and recordings by language ("en", "fr",
    ...), and the fold (0..9) of its group."""

    name: str
    file: Path
    captions: dict[str, str]
    sounds: dict[str, Path]
    fold: int

    @property
    def split(self) -> str:
        return "test" if self.fold < 2 else "dev" if self.fold == 2 else "train"

    @property
    def caption(self) -> str:
        """The English one as the benchmark wants it: in small letters."""
        return self.captions["en"].lower().strip()


def words_of(caption: str) -> str:
    """ "The letter A." -> "letter a": what two captions have in common where they are one."""
    return _LEADING.sub("", " ".join(re.sub(r"[^\w\s]", "", caption.lower()).split()))


def picture_of(file: Path) -> Image.Image:
    """The picture on white, RGB, in its own size; an SVG at SIDE pixels."""
    if file.suffix == ".svg":
        image = _drawn(file, width=SIDE)
        if image.height > SIDE:
            image = _drawn(file, height=SIDE)
    else:
        image = Image.open(file)
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    return canvas.convert("RGB")


def _drawn(file: Path, width: int | None = None, height: int | None = None) -> Image.Image:
    import resvg_py

    # dpi: of sizes in points and centimetres
    data = resvg_py.svg_to_bytes(svg_path=str(file), width=width, height=height, dpi=96.0, skip_system_fonts=True)
    return Image.open(io.BytesIO(data))


def load_stamps(data_dir: str | Path | None = None) -> list[Stamp]:
    """Every row that has a picture, sorted by name. Their groups are computed once and kept in `.data`."""
    root = debian_directory("tuxpaint-stamps-default", data_dir) / "usr/share/tuxpaint/stamps"
    rows = [row for path in sorted(root.rglob("*.txt")) if (row := _row(path, root)) is not None]
    return [Stamp(*row, fold=number) for row, number in zip(rows, _folds(rows, data_directory(data_dir)), strict=True)]


def _row(path: Path, root: Path) -> tuple[str, Path, dict[str, str], dict[str, Path]] | None:
    stem = path.with_suffix("")
    file = next((found for end in (".png", ".svg") if (found := Path(f"{stem}{end}")).exists()), None)
    if file is None:
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [match.groups() for line in lines[1:] if (match := _LINE.match(line)) and match[2].strip()]
    captions = {"en": lines[0].strip()} | {language: text.strip() for language, text in told}
    sounds = {}
    for language in captions:
        spoken = Path(f"{stem}_desc{'' if language == 'en' else '_' + language}.ogg")
        if spoken.exists():
            sounds[language] = spoken
    return str(stem.relative_to(root)), file, captions, sounds


def _folds(rows: Sequence[tuple], folder: Path) -> list[int]:
    """Of each row; in the file where they are kept, or computed (ten seconds) and kept."""
    file = folder / "stamps-folds.json"
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if [name for name, _ in kept] == [row[0] for row in rows]:
            return [number for _, number in kept]
    texts = [words_of(row[2]["en"]) for row in rows]
    group_of = grouped(texts, np.stack([_small(picture_of(row[1])) for row in rows]))
    smallest = {}
    for group, text in zip(group_of, texts, strict=True):
        smallest[group] = min(smallest.get(group, text), text)
    numbers = [fold(smallest[group]) for group in group_of]
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps([[row[0], one] for row, one in zip(rows, numbers, strict=True)]), encoding="utf-8")
    part.replace(file)
    return numbers


def grouped(texts: Sequence[str], pictures: np.ndarray) -> list[int]:
    """The number of each row's group: rows with one text, or with pictures uint8 (n, 64, 64, 3) that are alike."""
    group = list(range(len(texts)))

    def first(row: int) -> int:
        while group[row] != row:
            row = group[row]
        return row

    def join(one: int, other: int) -> None:
        low, high = sorted((first(one), first(other)))
        group[high] = low

    by_text: dict[str, int] = {}
    for row, text in enumerate(texts):
        join(by_text.setdefault(text, row), row)
    grey = np.stack([np.asarray(Image.fromarray(one).convert("L").resize((9, 8), _FINE)) for one in pictures]).astype(
        int
    )
    bits = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(grey), -1)  # (n, 64)
    small = [np.asarray(Image.fromarray(one).resize((8, 8), _FINE), np.float64) for one in pictures]
    colours = np.stack(small).reshape(len(pictures), -1)
    for row in range(len(texts)):
        near = (bits[row + 1 :] != bits[row]).sum(1) <= ALIKE_BITS
        near &= np.sqrt(((colours[row + 1 :] - colours[row]) ** 2).mean(1)) < ALIKE_COLOURS
        for other in np.flatnonzero(near):
            join(row, row + 1 + int(other))
    return [first(row) for row in range(len(texts))]


def _small(picture: Image.Image) -> np.ndarray:
    return np.asarray(crop_to_content(picture, 64))


def write_rows(stamps: Iterable[Stamp], folder: Path, name: str, spelled: Callable[[str], str] = str) -> Path:
    """folder/NAME.jsonl with a line {"image", "caption"} for each row, and the pictures on white beside it."""
    lines = []
    for stamp in stamps:
        file = Path("pictures") / f"{stamp.name.replace('/', '--')}.png"
        if not (folder / file).exists():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            picture_of(stamp.file).save(folder / file)
        lines.append(json.dumps({"image": str(file), "caption": spelled(stamp.caption)}, ensure_ascii=False) + "\n")
    written = folder / f"{name}.jsonl"
    written.write_text("".join(lines), encoding="utf-8")
    return written


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    options = parser.parse_args(arguments)
    stamps = load_stamps()
    for split in ("train", "dev", "test"):
        own = [stamp for stamp in stamps if stamp.split == split]
        print(f"{write_rows(own, options.output, split)}: {len(own)} rows")


if __name__ == "__main__":
    main()
