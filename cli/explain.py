"""`mm explain`: captions of pictures, and for each word where in its picture it was read."""

import copy
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..explaining.explanation import Explanation
from ..explaining.placing import Seen, seen
from ..explaining.plot import panel_size, plot_explanation
from ..processing.images.limits import MediaDecodeError
from ..processing.media_kinds import in_words
from ..processing.reading import in_batches
from .caption import Captioner, without_other_bars
from .long_work import Faults, check_new, check_settings, keep, note_of, processes, settings_kept
from .media_lists import told_media
from .printing import json_line, printable

DRAWN = (".png", ".svg", ".pdf")


class Explainer:
    """A model that captions pictures and explains the captions, or explains `text` as if the model had written it.

    Args:
        model: folder or Hub id (see `load_model`); None: the one in the package.
        prompt: words that the caption starts with; a model with a text encoder is asked them instead.
        method: as in `model.explain`.
        num_beams, batch_size, workers, device, dtype: as of `Captioner`.
    """

    def __init__(
        self, model: str | Path | None = None, *, text: str | None = None, prompt: str = "", method: str = "attention",
        num_beams: int | None = None, batch_size: int = 8, workers: int | None = None, device: str | None = None,
        dtype: str | None = None,
    ):  # fmt: skip
        with without_other_bars():
            self.captioner = Captioner(
                model, num_beams=num_beams, prompt=prompt, batch_size=batch_size, workers=workers, device=device,
                dtype=dtype,
            )  # fmt: skip
        self.model, self.processor = self.captioner.model, self.captioner.processor
        config = self.model.config
        if "image" not in config.modalities:
            raise ValueError(f"the model reads {in_words(config.modalities)}; mm explain gives it pictures")
        if prompt and text is not None and not config.media_in_text and self.processor.prompt_side(config) == "text":
            raise ValueError("the text that is explained holds its own beginning: leave the prompt out")
        self.text, self.method = text, method

    def __call__(self, pictures: Sequence[Path]) -> Iterator[tuple[int, Explanation | MediaDecodeError]]:
        """(number, its explanation) of each picture in order, or why it cannot be read."""
        captioner = self.captioner
        return in_batches(
            pictures, self.processor, ("image",), self._work, captioner.batch_size, captioner.workers,
            captioner.texts, beside=partial(_small, self.processor),
        )  # fmt: skip

    def _work(self, media: dict[str, torch.Tensor], numbers: list[int], pictures: list[Seen]) -> list[Explanation]:
        inputs = self.captioner.inputs_of(media, len(numbers))
        if self.text is None:
            tokens = self.model.generate(**inputs, **self.captioner.settings, return_dict_in_generate=True)
        else:
            tokens = _rows_of(self.model, self.processor, inputs, self.text, len(numbers))
        return self.model.explain(
            inputs, tokens, processor=self.processor, pictures=[[one] for one in pictures], method=self.method
        )


def _small(processor: Any, path: Path) -> Seen:
    """A picture for its drawing, read where it is read for the model: no larger than it is drawn."""
    found = seen(processor, path)
    return Seen(found.picture.resize(panel_size(*found.size)), found.size, found.view)


def explain(
    paths: Sequence[str | Path], model: str | None = None, *, output: Path | None = None, resume: bool = False,
    recursive: bool = False, as_json: bool = False, **options: Any,
) -> bool:  # fmt: skip
    """Explains pictures, and prints the lines of each as it comes; the name before them where it is not one file.

    Args:
        paths, recursive: as `told_media`.
        output: of one picture a new file for the drawing (.png, .svg, .pdf), or a folder; of several a folder, where
            each has a .png of its name. resume: pictures that have theirs in that folder are left out.
        options: of `Explainer`.

    Returns: whether every file was a picture; those that were none are listed on stderr at the end.
    """
    is_one = len(paths) == 1 and Path(paths[0]).is_file()
    files = list(dict.fromkeys(told_media(paths, ("image",), recursive)))
    rank, size = processes()
    if output is None and size > 1:
        raise ValueError(f"{size} processes write into --output; give one")
    files = files[rank::size]
    settings = {"command": "explain", "model": model, **options}
    drawings, note = _drawings(files, output, is_one, resume, settings)
    todo = [path for path in files if not (resume and path in drawings and drawings[path].exists())]
    explainer = Explainer(model, **options)
    if note is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(settings_kept(settings)) + "\n", encoding="utf-8")
    results = Faults(len(files))

    def tell(path: Path, found: Explanation) -> None:
        if path in drawings and not found.words:
            results.fail(str(path), f"{path.name} has no drawing: the model wrote no words")
        elif path in drawings:
            _draw(found, drawings[path])
        lines = lines_of(found) if not as_json else [json_line({"path": str(path), **found.to_dict()})]
        named = "" if is_one or as_json else f"{printable(path.name)}\t"
        for line in lines:
            sys.stdout.write(f"{named}{line}\n")
        sys.stdout.flush()

    return keep(results, todo, explainer(todo), dict, tell)


def _drawings(
    files: Sequence[Path], output: Path | None, is_one: bool, resume: bool, settings: dict[str, Any]
) -> tuple[dict[Path, Path], Path | None]:
    """The file of each picture's drawing, and that of the settings in a folder of them. Raises ValueError for an
    output that does not do."""
    if output is None:
        if resume:
            raise ValueError("--resume goes on with the folder of --output; give one")
        return {}, None
    if is_one and not output.is_dir() and not resume:
        if output.suffix.lower() not in DRAWN:
            raise ValueError(f"--output {output} must end in {', '.join(DRAWN)}, or be a folder that is there")
        if not output.parent.is_dir():
            raise ValueError(f"there is no folder {str(output.parent)!r} for --output {output.name}")
        check_new(output, "--output")
        return {path: output for path in files}, None
    if output.suffix.lower() in DRAWN or (output.exists() and not output.is_dir()):
        raise ValueError(f"--output {output} is one file; give a folder, where each picture has a drawing")
    counts = Counter(path.stem for path in files)
    if doubled := [stem for stem, count in counts.items() if count > 1]:
        raise ValueError(f"several pictures would be drawn as {doubled[0]}.png; explain them apart")
    drawings, note = {path: output / f"{path.stem}.png" for path in files}, note_of(output / "explain")
    there = [drawing for drawing in drawings.values() if drawing.exists()]
    if there and not resume:
        raise ValueError(f"--output {output} holds {there[0].name} already; --resume goes on with it")
    if resume:
        check_settings(note, settings_kept(settings), str(output))
    return drawings, note


def _draw(found: Explanation, place: Path) -> None:
    """Whole or not at all: what is there is left out by --resume."""
    aside = place.with_name(f".{place.stem}.writing{place.suffix}")
    try:
        plot_explanation(found, aside)
        os.replace(aside, place)
    finally:
        aside.unlink(missing_ok=True)


def explained_inputs(
    model: Any, processor: Any, picture: Any, text: str | None = None
) -> tuple[Any, torch.Tensor | None]:
    """What generate() and explain() are given for a picture, and the whole row int64 (1, T) of `text`; None without.

    Where media stand in the text the picture is asked about by the chat template, as `MMProcessor.about` does.
    """
    asked = processor.about("image", "") if model.config.media_in_text else {}
    asked |= {"text": [asked["text"]]} if asked else {}
    inputs = processor(images=[picture], **asked, add_eos_token=False, return_tensors="pt").to(model.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return inputs, None if text is None else _rows_of(model, processor, inputs, text, 1)


def _rows_of(model: Any, processor: Any, inputs: Any, text: str, count: int) -> torch.Tensor:
    """Whole rows int64 (count, T) of a text, as if the model had written it about each of `count` pictures."""
    if not model.config.media_in_text:
        processor = copy.copy(processor)
        processor.prompt_to = "decoder"  # the text is what the decoder writes, wherever prompts go
        row = processor(text=[text], truncation=False, return_tensors="pt")["input_ids"].to(model.device)
        return row.repeat(count, 1)
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = [] if processor.tokenizer.eos_token_id is None else [processor.tokenizer.eos_token_id]
    row = torch.tensor([[*ids, *ends]], device=model.device)
    return torch.cat([inputs["input_ids"], row.repeat(count, 1)], dim=1)


def lines_of(found: Explanation) -> list[str]:
    """A heading, and of each word: the word, where its map is greatest (across and down, in percent of the picture),
    and how much of the map lies in the tenth of the picture that has most of it. Maps are as large as drawings."""
    lines = ["word\tacross\tdown\tin a tenth"]
    height, width = found.picture_size
    width, height = panel_size(width, height)
    for word, of_word in zip(found.words, found.maps_of((height, width)), strict=True):
        down, across = divmod(int(of_word.argmax()), width)
        ordered = np.sort(of_word, axis=None)
        top = float(ordered[-max(1, len(ordered) // 10) :].sum(dtype=np.float64))
        where = f"{100 * (across + 0.5) / width:.0f} %\t{100 * (down + 0.5) / height:.0f} %"
        lines.append(f"{printable(word)}\t{where}\t{top:.2f}")
    return lines
