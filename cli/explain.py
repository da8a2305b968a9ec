"""`mm explain`: captions of pictures, and for each word where in its picture it was read."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..explaining.explanation import Explanation
from ..explaining.plot import plot_explanation
from ..processing.images.limits import MediaDecodeError
from ..processing.media_kinds import in_words, kind_of, other_kind
from .caption import without_other_bars
from .long_work import Faults, check_new, check_settings, note_of, processes, settings_kept
from .media_lists import told_media
from .models import load_model
from .printing import json_line, printable

DRAWN = (".png", ".svg", ".pdf")


class Explainer:
    """A model that captions pictures and explains the captions, or explains `text` as if the model had written it.

    Args:
        model: folder or Hub id (see `load_model`); None: the one in the package.
        prompt: words that the caption starts with; a model with a text encoder is asked them instead.
        method: as in `model.explain`.
        device, dtype: as `load_model`.
    """

    def __init__(
        self, model: str | Path | None = None, *, text: str | None = None, prompt: str = "", method: str = "attention",
        num_beams: int | None = None, device: str | None = None, dtype: str | None = None,
    ):  # fmt: skip
        with without_other_bars():
            self.model, self.processor = load_model(model, device=device, dtype=dtype)
        if "image" not in self.model.config.modalities:
            raise ValueError(f"the model reads {in_words(self.model.config.modalities)}; mm explain gives it pictures")
        self.text, self.prompt, self.method = text, prompt, method
        self.settings = {} if num_beams is None else {"num_beams": num_beams}

    def __call__(self, picture: str | Path) -> Explanation:
        """Raises: MediaDecodeError for a file that cannot be read, or is no picture."""
        path = Path(picture)
        if (kind := kind_of(path)) != "image":
            raise MediaDecodeError(f"cannot read {path.name}: {other_kind(kind, ['image'])}")
        try:
            inputs, tokens = explained_inputs(self.model, self.processor, path, self.text, self.prompt)
        except OSError as error:
            raise MediaDecodeError(f"cannot read {path.name}: {error.strerror or error}") from None
        if tokens is None:
            tokens = self.model.generate(**inputs, **self.settings, return_dict_in_generate=True)
        (found, *_) = self.model.explain(inputs, tokens, processor=self.processor, pictures=[path], method=self.method)
        return found


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
    try:
        for path in tqdm(todo, unit=" files", disable=True if is_one else None):
            try:
                found = explainer(path)
            except MediaDecodeError as error:
                results.fail(str(path), str(error))
                continue
            if path in drawings and not found.words:
                results.fail(str(path), f"{path.name} has no drawing: the model wrote no words")
            elif path in drawings:
                _draw(found, drawings[path])
            lines = lines_of(found) if not as_json else [json_line({"path": str(path), **found.to_dict()})]
            named = "" if is_one or as_json else f"{printable(path.name)}\t"
            with tqdm.external_write_mode(sys.stdout):
                for line in lines:
                    sys.stdout.write(f"{named}{line}\n")
                sys.stdout.flush()
    finally:
        results.close(True)
    return results.all_read


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
    model: Any, processor: Any, picture: Any, text: str | None = None, prompt: str = ""
) -> tuple[Any, torch.Tensor | None]:
    """What generate() and explain() are given for a picture, and the whole row int64 (1, T) of `text`; None without.

    Where media stand in the text the picture is asked about by the chat template, as `MMProcessor.about` does.

    Raises: ValueError for a text with a prompt, where the text itself is the whole row.
    """
    config, asked = model.config, {}
    if config.media_in_text:
        asked = processor.about("image", prompt)
        asked["text"] = [asked["text"]]
    elif prompt:
        side = processor.prompt_side(config)
        asked = {side: [prompt]}
        if text is not None and side == "text":
            raise ValueError("the text that is explained holds its own beginning: leave the prompt out")
    inputs = processor(images=[picture], **asked, add_eos_token=False, return_tensors="pt").to(model.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    if text is None:
        return inputs, None
    if not config.media_in_text:
        return inputs, processor(text=[text], truncation=False, return_tensors="pt")["input_ids"].to(model.device)
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = [] if processor.tokenizer.eos_token_id is None else [processor.tokenizer.eos_token_id]
    row = torch.tensor([[*ids, *ends]], device=model.device)
    return inputs, torch.cat([inputs["input_ids"], row], dim=1)


def lines_of(found: Explanation) -> list[str]:
    """A heading, and of each word: the word, where its map is greatest (across and down, in percent of the picture),
    and how much of the map lies in the tenth of the picture that has most of it."""
    lines = ["word\tacross\tdown\tin a tenth"]
    for word, of_word in zip(found.words, found.maps, strict=True):
        down, across = divmod(int(of_word.argmax()), of_word.shape[1])
        ordered = sorted(of_word.ravel().tolist(), reverse=True)
        top = sum(ordered[: max(1, len(ordered) // 10)])
        height, width = of_word.shape
        where = f"{100 * (across + 0.5) / width:.0f} %\t{100 * (down + 0.5) / height:.0f} %"
        lines.append(f"{printable(word)}\t{where}\t{top:.2f}")
    return lines
