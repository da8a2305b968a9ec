"""`mm caption`: pictures, videos and sounds in, one line of text each out.

B pictures in a batch, T tokens of prompt and caption.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from ..evaluation.calibration import Calibration, calibration_of, mean_log_probabilities
from ..processing.images.limits import MediaDecodeError
from ..processing.media import KEYS
from ..processing.media_kinds import ARGUMENT_OF
from ..processing.reading import in_batches
from .long_work import Faults, Results, open_results
from .media_lists import list_media, told_media
from .models import PACKAGED_MODEL, kinds_of, load_model  # noqa: F401  the packaged one is found here too
from .on_ray import check_engine, shards_of
from .printing import json_line, printable


class Caption(NamedTuple):
    """One captioned picture."""

    path: Path
    caption: str
    score: float | None
    """Mean log-probability of the caption's tokens, end token included; None unless asked for."""
    chance: float | None = None
    """How likely it is right, 0 to 1; None where the model has no calibration, and after a prompt."""
    is_unsure: bool = False
    """Whether that is below `unsure_below`."""


def list_pictures(paths: Iterable[str | Path]) -> list[Path]:
    """The files in `paths`, each folder replaced by the pictures directly in it; see `list_media`."""
    return list_media(paths)


def caption(
    paths: Iterable[str | Path],
    model: str | Path | None = None,
    *,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    prompt: str = "",
    batch_size: int = 8,
    with_scores: bool = False,
    unsure_below: float | None = None,
    workers: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Iterator[Caption]:
    """Caption pictures, videos and sounds, in their order, `batch_size` at a time.

    Args:
        paths: files, or folders of pictures (see `list_media`).
        model: folder or Hub id of a saved model or adapter (see `load_model`). None takes the one in the package.
        num_beams, max_new_tokens: of generate(). None leaves it to the model's generation_config.
        prompt: words that every caption starts with; they are part of the caption returned, but not a mark that opens
            them, such as "<de>". A model with a text
            encoder is asked them instead, and so is one that chats about pictures in its texts.
        with_scores: fill in `Caption.score`.
        unsure_below: the chance of being right below which a caption `is_unsure`, 0 to 1; 0: none is. None: the
            model's own, see `mm.metrics.Calibration`.
        workers: processes that read ahead; None: two for many files.
        device, dtype: as `load_model`.

    Raises:
        FileNotFoundError, ValueError: as `list_media` and `load_model`, before anything is captioned; a model that
            needs a prompt gets none.
        MediaDecodeError (a ValueError): a file that cannot be read.
    """
    files = list_pictures(paths)
    captioner = Captioner(
        model, num_beams=num_beams, max_new_tokens=max_new_tokens, prompt=prompt, batch_size=batch_size,
        with_scores=with_scores, unsure_below=unsure_below, workers=workers, device=device, dtype=dtype,
    )  # fmt: skip
    for found in captioner(files):
        if isinstance(found, MediaDecodeError):
            raise found
        yield found


class Captioner:
    """A model that captions files, list after list. Args: as `caption`."""

    def __init__(
        self, model: str | Path | None = None, *, num_beams: int | None = None, max_new_tokens: int | None = None,
        prompt: str = "", batch_size: int = 8, with_scores: bool = False, unsure_below: float | None = None,
        workers: int | None = None, device: str | None = None, dtype: str | None = None,
    ):  # fmt: skip
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is not a number of pictures; use 1 or more")
        self.model, self.processor = load_model(model, parts=("tokenizer",), device=device, dtype=dtype)
        config = self.model.config
        if not config.decoder_sees_media and not prompt:
            raise ValueError(
                "the model needs a question or prompt for its text encoder: give one, --prompt 'what is it?'"
            )
        given = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        self.settings = {name: value for name, value in given.items() if value is not None}
        self.calibration = _calibration(self.model, prompt, unsure_below)
        with_scores = with_scores or self.calibration is not None
        self.batch_size, self.with_scores, self.workers = batch_size, with_scores, workers
        self.prompts: dict[str, dict[str, torch.Tensor]] = {}  # by the name of a kind's tensors: one for all files
        self.texts: dict[str, dict] = {}  # by kind: read with each file, as a text has as many places as it has tiles
        self.is_chat = False
        for kind in config.modalities:
            in_chat = config.media_in_text or self.processor.tiles is not None
            asked = self.processor.about(kind, prompt) if in_chat else {"text": prompt}
            self.is_chat = len(asked) > 1
            if self.processor.tiles is not None:
                self.texts[kind] = asked
            else:
                self.prompts[KEYS[ARGUMENT_OF[kind]]] = _prompt_row(self.model, self.processor, asked)

    def __call__(self, files: Sequence[Path]) -> Iterator[Caption | MediaDecodeError]:
        """Of each file in order its caption, or why it cannot be read."""
        kinds = self.model.config.modalities
        for number, found in in_batches(
            files, self.processor, kinds, self._work, self.batch_size, self.workers, self.texts
        ):
            yield found if isinstance(found, MediaDecodeError) else self._told(files[number], *found)

    def _told(self, path: Path, words: str, score: float | None) -> Caption:
        if self.calibration is None or score is None:
            return Caption(path, words, score)
        chance = self.calibration.chance(score)
        return Caption(path, words, score, chance, chance < self.calibration.unsure_below)

    def inputs_of(self, media: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        """What generate() is given for `count` media of one kind, as `in_batches` reads them: these and the prompt."""
        model = self.model
        asked = next((row for key, row in self.prompts.items() if key in media), {})
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in media.items()
        }
        return inputs | {name: row.expand(count, -1) for name, row in asked.items()}

    def _work(self, media: dict[str, torch.Tensor], numbers: list[int]) -> list[tuple[str, float | None]]:
        inputs = self.inputs_of(media, len(numbers))
        row = inputs["input_ids"][0].tolist() if "input_ids" in inputs else []
        start = len(row) if self.is_chat else _marks(self.processor, row)  # in a chat what the assistant says
        return _written(self.model, self.processor, inputs, self.settings, self.with_scores, start)


def _calibration(model, prompt: str, unsure_below: float | None) -> Calibration | None:
    """The model's, with another limit if one is given. ValueError for a limit where there is none."""
    found = None if prompt else calibration_of(model)
    if unsure_below is None:
        return found
    if found is None:
        why = "its captions after a prompt have no calibration" if prompt else "the model has no calibration"
        raise ValueError(f"--unsure-below {unsure_below:g}: {why} (mm.metrics.calibrate makes one)")
    return replace(found, unsure_below=unsure_below)


def caption_rows(**options) -> Callable[[list[str]], list[dict]]:
    """What makes rows of files for `run_on_ray`; options: of `Captioner`."""
    captioner = Captioner(**options)

    def rows(names: list[str]) -> list[dict]:
        found = zip(names, captioner([Path(name) for name in names]), strict=True)
        return [
            {"path": name, "error": str(one)}
            if isinstance(one, MediaDecodeError)
            else {"path": name, **_said(one), "score": one.score}
            for name, one in found
        ]

    return rows


def _prompt_row(model, processor, asked: dict) -> dict[str, torch.Tensor]:
    """The inputs of the prompt, a row (1, T) that every file has. asked: as `MMProcessor.about` makes it."""
    text = asked.pop("text")
    if not text:
        return {}
    side = processor.prompt_side(model.config)
    read = processor(**{side: [text]}, **asked, add_eos_token=False, return_tensors="pt")
    return {name: value.to(model.device) for name, value in read.items()}


def _marks(processor, row: list[int]) -> int:
    """How many tokens open a row that are no words: bos, and marks such as "<de>", a language."""
    known = processor.tokenizer.added_tokens_decoder
    return next((place for place, token in enumerate(row) if token not in known), len(row))


def _written(
    model, processor, inputs, settings: dict, with_scores: bool, start: int
) -> list[tuple[str, float | None]]:
    """The text from token `start` on, and its score, of each file."""
    output = model.generate(**inputs, **settings, return_dict_in_generate=True, output_scores=with_scores)
    captions = processor.batch_decode(output.sequences[:, start:], skip_special_tokens=True)
    scores = mean_log_probabilities(model, output) if with_scores else [None] * len(captions)
    return [(" ".join(words.split()), score) for words, score in zip(captions, scores, strict=True)]


def print_captions(
    paths: Sequence[str | Path], *, json_lines: bool = False, recursive: bool = False, output: Path | None = None,
    resume: bool = False, engine: str = "local", actors: int | None = None, **options,
) -> bool:  # fmt: skip
    """Print a line per file, "file name<TAB>caption" or JSON with path, caption and score, as the captions come.

    What a terminal would obey in a name or a caption (escapes, line ends, changes of direction) is escaped. Files that
    cannot be read are listed on stderr at the end, and the others are captioned all the same.

    Args:
        paths: files, and folders of what the model reads; recursive: with all folders below.
        output: write JSON lines to this file instead; with `resume` only what it lacks (see `Results`).
        engine, actors: "ray" writes Parquet into the folder `output` (see `shards_of`).
        options: of `caption`.

    Returns: whether every file could be read.
    """
    files = told_media(paths, kinds_of(options.get("model")), recursive)
    if check_engine(engine, actors=actors):
        options |= {"with_scores": json_lines, "workers": options.get("workers") or 0}  # actors read side by side
        return shards_of(files, "caption", caption_rows, options, output, resume, actors)
    results, files = open_results(output, {"command": "caption", **options, "scores": json_lines}, resume, files)
    complete = False
    try:
        with without_other_bars():
            if files:
                _print_each(files, json_lines, results, options)
        complete = True
    finally:
        results.close(complete)
    return results.all_read


def _print_each(files: list[Path], json_lines: bool, results: Faults, options: dict[str, Any]) -> None:
    captions = Captioner(with_scores=json_lines, **options)(files)
    hidden = None if len(files) > 1 else True  # where nobody sees a bar, or it would be of one file
    for path, found in tqdm(zip(files, captions, strict=True), total=len(files), unit=" files", disable=hidden):
        if isinstance(found, MediaDecodeError):
            results.fail(str(path), str(found))
        elif isinstance(results, Results):
            score = {"score": found.score} if json_lines else {}
            results.write(str(path), **_said(found), **score)
        elif json_lines:
            tqdm.write(json_line({"path": str(path), **_said(found), "score": found.score}), file=sys.stdout)
        else:
            words = f"unsure ({found.caption})" if found.is_unsure else found.caption
            tqdm.write(f"{printable(path.name)}\t{printable(words)}", file=sys.stdout)


def _said(found: Caption) -> dict[str, Any]:
    """The caption, and how sure the model may be of it, where that is known."""
    sure = {} if found.chance is None else {"chance": round(found.chance, 4), "unsure": found.is_unsure}
    return {"caption": found.caption, **sure}


@contextmanager
def without_other_bars() -> Iterator[None]:
    """Within, Transformers shows no bar over the weights, as there is one of ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
