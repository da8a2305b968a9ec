"""`mm draw`: pictures of texts, in files and on a sheet."""

import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from ..modeling_mm.tasks.pipelines import check_draws, drawing_texts
from ..searching.rerank import rank_pictures
from ..searching.sheet import check_sheet, draw_rows
from .caption import without_other_bars
from .long_work import check_new, check_settings, note_of, settings_kept
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
    keep: int | None = None, batch_size: int = 4, resume: bool = False, device: str | None = None,
    dtype: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Draws n pictures of each text and prints a line for each that is kept: text, tab, file.

    Args:
        texts: "-" is replaced by the lines of stdin.
        output: folder of the pictures; None: the one that we are in, or no files where a sheet is asked for.
        style: is added to every text after a comma.
        seed: the n pictures of a text depend on it and the text alone.
        rerank: a model that compares; pictures come in its order, with its score. keep: how many; None: all.
        steps: of a model that draws in parallel.
        resume: texts that have their pictures in `output` are left out.

    Raises: ValueError for a model that does not draw, or a file that is there already.
    """
    settings = {"guidance_scale": guidance, "temperature": temperature, "top_k": top_k, "seed": seed}
    made_with = settings_kept({"command": "draw", **settings, "model": model, "n": n, "steps": steps, "rerank": rerank,
                               "keep": keep, "dtype": dtype})  # fmt: skip
    asked = [f"{text}, {style}" if style else text for text in _with_stdin(texts)]
    if keep is not None and keep > n:
        raise ValueError(f"--keep {keep} of --n {n} pictures; --n must be as many at least")
    if sheet is not None:
        check_new(check_sheet(sheet), "--sheet")
    folder = Path(".") if output is None and sheet is None else output
    kept = n if keep is None else keep
    if resume and output is None:
        raise ValueError("--resume goes on with the folder of --output; give one")
    files = {} if folder is None else _files(folder, asked, seed, kept, resume)
    if resume and output is not None:
        check_settings(note_of(output / "draw"), made_with, str(output))
    with without_other_bars():
        drawer, processor = load_head(model, DRAWS, device=device, dtype=dtype)
        judge = None if rerank is None else load_head(rerank, JUDGES, device=device, dtype=dtype, option="--rerank")
    check_draws(drawer, processor)
    if steps is not None:
        if type(drawer).__name__ != "MMForMaskedLM":
            raise ValueError("--steps is of a model that draws in parallel (MMForMaskedLM); this one draws in order")
        settings["steps"] = steps
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        note_of(output / "draw").write_text(json.dumps(made_with) + "\n", encoding="utf-8")
    rows: dict[int, list[Image.Image]] = {}
    todo = [number for number in range(len(asked)) if not (resume and all(map(Path.exists, files[number])))]
    with tqdm(total=len(todo), unit=" texts", disable=None if len(todo) > 1 else True) as bar:
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            read = drawing_texts(drawer, processor, [asked[number] for number in batch])
            inputs = processor(**read, return_tensors="pt").to(drawer.device)
            ids = drawer.draw(**inputs, num_return_sequences=n, **settings)
            pictures = processor.decode_images(ids)
            for place, number in enumerate(batch):
                drawn = pictures[place * n : (place + 1) * n]
                ranked = [(which, None) for which in range(n)]
                if judge is not None:
                    ranked = rank_pictures(judge[0], judge[1], asked[number], drawn)
                own = [(drawn[which], score) for which, score in ranked[:kept]]
                rows[number] = [one for one, _ in own]
                with tqdm.external_write_mode(sys.stdout):  # above the bar
                    _tell(say, asked[number], own, files.get(number), seed, as_json)
            bar.update(len(batch))
    if sheet is not None:
        drawn_before = {number: list(map(Image.open, files[number])) for number in {*range(len(asked))} - {*todo}}
        draw_rows([(text, (rows | drawn_before)[number]) for number, text in enumerate(asked)], sheet)


def _tell(say, text: str, drawn: list, files: list[Path] | None, seed: int, as_json: bool) -> None:
    for number, (picture, score) in enumerate(drawn):
        path = None if files is None else files[number]
        if path is not None:
            _save(picture, path)
        if as_json:
            told = {"text": text, "path": None if path is None else str(path), "seed": seed, "number": number + 1}
            say(json_line(told | ({} if score is None else {"score": score})))
        elif path is not None:
            say("\t".join([printable(text), printable(path), *([] if score is None else [f"{score:.4f}"])]))


def _save(picture: Image.Image, path: Path) -> None:
    """Whole or not at all: what is there is left out by --resume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.writing")
    try:
        picture.save(aside, format="PNG")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _files(folder: Path, texts: list[str], seed: int, count: int, resume: bool) -> dict[int, list[Path]]:
    """The files of each text; texts that would share a name are numbered. Raises ValueError for one that is there,
    unless `resume`."""
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
        if there and not resume:
            raise ValueError(f"{str(there[0])!r} is there already; give another --output or --seed, or --resume")
    return named


def _with_stdin(texts: Sequence[str]) -> list[str]:
    found = list(map(str, with_stdin(texts)))
    if not found or not all(text.strip() for text in found):
        raise ValueError("nothing to draw: give a text, or - for a line each on stdin")
    return [text.strip() for text in found]
