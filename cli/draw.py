"""`mm draw`: pictures of texts, in files and on a sheet."""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..modeling_mm.tasks.pipelines import check_draws, drawing_texts
from ..searching.rerank import rank_pictures
from ..searching.sheet import check_sheet, draw_rows
from .caption import without_other_bars
from .long_work import check_new
from .media_lists import with_stdin
from .models import load_head
from .printing import json_line, printable

LONGEST_NAME = 160  # bytes of a text in the name of its files; file systems take 255 of a name
DRAWS = ("MMForConditionalGeneration", "MMForMaskedLM")
JUDGES = ("MMForImageTextRetrieval",)


def draw(
    texts: Sequence[str], say: Callable[[str], Any], *, model: str | Path, n: int = 4, output: Path | None = None,
    sheet: Path | None = None, style: str | None = None, seed: int = 0, guidance: float | None = None,
    temperature: float = 1.0, top_k: int = 0, steps: int | None = None, rerank: str | None = None,
    keep: int | None = None, batch_size: int = 4, device: str | None = None, dtype: str | None = None,
    as_json: bool = False,
) -> None:  # fmt: skip
    """Draws n pictures of each text and prints a line for each that is kept: text, tab, file.

    Args:
        texts: "-" is replaced by the lines of stdin.
        output: folder of the pictures; None: the one that we are in, or no files where a sheet is asked for.
        style: is added to every text after a comma.
        seed: the n pictures of a text depend on it and the text alone.
        rerank: a model that compares; pictures come in its order, with its score. keep: how many; None: all.
        steps: of a model that draws in parallel.

    Raises: ValueError for a model that does not draw, or a file that is there already.
    """
    asked = [f"{text}, {style}" if style else text for text in _with_stdin(texts)]
    if keep is not None and keep > n:
        raise ValueError(f"--keep {keep} of --n {n} pictures; --n must be as many at least")
    if sheet is not None:
        check_new(check_sheet(sheet), "--sheet")
    folder = Path(".") if output is None and sheet is None else output
    kept = n if keep is None else keep
    files = {} if folder is None else _files(folder, asked, seed, kept)
    with without_other_bars():
        drawer, processor = load_head(model, DRAWS, device=device, dtype=dtype)
        judge = None if rerank is None else load_head(rerank, JUDGES, device=device, dtype=dtype, option="--rerank")
    check_draws(drawer, processor)
    settings = {"guidance_scale": guidance, "temperature": temperature, "top_k": top_k, "seed": seed}
    if steps is not None:
        if type(drawer).__name__ != "MMForMaskedLM":
            raise ValueError("--steps is of a model that draws in parallel (MMForMaskedLM); this one draws in order")
        settings["steps"] = steps
    rows: list[tuple[str, list[Image.Image], list[float | None]]] = []
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        inputs = processor(**drawing_texts(drawer, processor, batch), return_tensors="pt").to(drawer.device)
        ids = drawer.draw(**inputs, num_return_sequences=n, **settings)
        pictures = processor.decode_images(ids)
        for place, text in enumerate(batch):
            drawn = pictures[place * n : (place + 1) * n]
            ranked = [(number, None) for number in range(n)]
            if judge is not None:
                ranked = rank_pictures(judge[0], judge[1], text, drawn)
            own = [(drawn[number], score) for number, score in ranked[:kept]]
            rows.append((text, [one for one, _ in own], [score for _, score in own]))
            _tell(say, text, own, files.get(start + place), seed, as_json)
    if sheet is not None:
        draw_rows([(text, pictures) for text, pictures, _ in rows], sheet)


def _tell(say, text: str, drawn: list, files: list[Path] | None, seed: int, as_json: bool) -> None:
    for number, (picture, score) in enumerate(drawn):
        path = None if files is None else files[number]
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        if as_json:
            told = {"text": text, "path": None if path is None else str(path), "seed": seed, "number": number + 1}
            say(json_line(told | ({} if score is None else {"score": score})))
        elif path is not None:
            say("\t".join([printable(text), printable(path), *([] if score is None else [f"{score:.4f}"])]))


def _files(folder: Path, texts: list[str], seed: int, count: int) -> dict[int, list[Path]]:
    """The files of each text; texts that would share a name are numbered. Raises ValueError for one that is there."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {str(folder)!r} is no folder")
    named: dict[int, list[Path]] = {}
    taken: set[str] = set()
    for number, text in enumerate(texts):
        words = re.sub(r"\W+", "_", text.lower()).strip("_").encode()
        name = words[:LONGEST_NAME].decode(errors="ignore") or "drawn"
        numbered = (name if again == 1 else f"{name}_{again}" for again in itertools.count(1))
        name = next(one for one in numbered if one not in taken)
        taken.add(name)
        named[number] = [folder / f"{name}-{seed}-{place + 1}.png" for place in range(count)]
        there = [path for path in named[number] if path.exists()]
        if there:
            raise ValueError(f"{str(there[0])!r} is there already; give another --output or --seed")
    return named


def _with_stdin(texts: Sequence[str]) -> list[str]:
    found = list(map(str, with_stdin(texts)))
    if not found or not all(text.strip() for text in found):
        raise ValueError("nothing to draw: give a text, or - for a line each on stdin")
    return [text.strip() for text in found]
