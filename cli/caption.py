"""`mm caption`: pictures in, one line of text each out, through the Auto classes as a user would do it.

B pictures in a batch, T tokens of prompt and caption.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import BatchFeature
from transformers.utils import logging

from ..processing.images.load import FORMATS, MediaDecodeError, load_image
from .models import PACKAGED_MODEL, load_model  # noqa: F401  the packaged one is found here too
from .printing import json_line, printable

# Files of a folder that are pictures: .png, .jpg and so on. A file given by name may have any suffix.
PICTURE_SUFFIXES = sorted(suffix for suffix, name in Image.EXTENSION.items() if name in FORMATS)


class Caption(NamedTuple):
    """One captioned picture."""

    path: Path
    caption: str
    score: float | None
    """Mean log-probability of the caption's tokens, end token included; None unless asked for."""


def list_pictures(paths: Iterable[str | Path]) -> list[Path]:
    """The files in `paths`, each folder replaced by the pictures directly in it, sorted by name.

    Raises:
        FileNotFoundError: a path that is neither a file nor a folder.
        ValueError: a folder without pictures, or no paths.
    """
    pictures = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES)
            if not inside:
                raise ValueError(f"no pictures in the folder {path}: looked for {' '.join(PICTURE_SUFFIXES)}")
            pictures.extend(inside)
        elif path.exists():
            pictures.append(path)
        else:
            raise FileNotFoundError(f"no file or folder {str(path)!r}")
    if not pictures:
        raise ValueError("no pictures given")
    return pictures


def caption(
    paths: Iterable[str | Path],
    model: str | Path | None = None,
    *,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    prompt: str = "",
    batch_size: int = 8,
    with_scores: bool = False,
    on_bad_picture: Callable[[MediaDecodeError], None] | None = None,
) -> Iterator[Caption]:
    """Caption pictures, in their order, `batch_size` at a time.

    Args:
        paths: pictures, or folders of them (see `list_pictures`).
        model: folder or Hub id of a saved model or adapter (see `load_model`). None takes the one in the package.
        num_beams, max_new_tokens: of generate(). None leaves it to the model's generation_config.
        prompt: words that every caption starts with; they are part of the caption returned. A model with a text
            encoder is asked them instead.
        with_scores: fill in `Caption.score`.
        on_bad_picture: called with the error for each file that holds no picture, which is then left out. None raises.

    Raises:
        FileNotFoundError, ValueError: as `list_pictures` and `load_model`, before anything is captioned; a model that
            needs a prompt gets none.
        MediaDecodeError (a ValueError): a file that holds no picture.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not a number of pictures; use 1 or more")
    pictures = list_pictures(paths)
    loaded, processor = load_model(model)
    config = loaded.config
    if "image" not in config.modalities:
        raise ValueError(f"the model reads {' and '.join(config.modalities)}; mm caption gives it pictures")
    if not config.decoder_sees_media and not prompt:
        raise ValueError("the model needs a question or prompt for its text encoder: give one, --prompt 'what is it?'")
    asked = {"context_text" if config.has_text_encoder else "text": prompt} if prompt else {}
    given = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    settings = {name: value for name, value in given.items() if value is not None}
    for start in range(0, len(pictures), batch_size):
        batch = pictures[start : start + batch_size]
        batch, inputs = _read(batch, processor, asked, on_bad_picture)
        if inputs is not None:
            yield from _caption_batch(batch, inputs.to(loaded.device), loaded, processor, settings, with_scores)


def _read(
    batch: list[Path], processor, asked: dict[str, str], on_bad_picture
) -> tuple[list[Path], BatchFeature | None]:
    """The files of `batch` that hold a picture, and the model's inputs for them; None for no files."""
    texts = {side: [prompt] * len(batch) for side, prompt in asked.items()}
    try:
        if not batch:
            return batch, None
        return batch, processor(images=batch, **texts, add_eos_token=False, return_tensors="pt")
    except MediaDecodeError:  # which file it was, and whether more are bad, is found out now only
        if on_bad_picture is None:
            raise
    good = [path for path in batch if _is_picture(path, on_bad_picture)]
    return _read(good, processor, asked, None)


def _is_picture(path: Path, on_bad_picture: Callable[[MediaDecodeError], None]) -> bool:
    try:
        load_image(path)
    except MediaDecodeError as error:
        on_bad_picture(error)
        return False
    return True


def _caption_batch(batch, inputs, model, processor, settings: dict, with_scores: bool) -> Iterator[Caption]:
    output = model.generate(**inputs, **settings, return_dict_in_generate=True, output_scores=with_scores)
    captions = processor.batch_decode(output.sequences, skip_special_tokens=True)
    scores = _mean_log_probabilities(model, output) if with_scores else [None] * len(batch)
    for path, words, score in zip(batch, captions, scores, strict=True):
        yield Caption(path, " ".join(words.split()), score)


def _mean_log_probabilities(model, output) -> list[float]:
    """Per row, the mean log-probability of the new tokens up to and with the end token."""
    per_token = model.compute_transition_scores(
        output.sequences, output.scores, output.get("beam_indices"), normalize_logits=True
    )  # (B, new tokens)
    new = output.sequences[:, -per_token.shape[1] :]
    ends = model.generation_config.eos_token_id
    is_end = torch.isin(new, torch.tensor([] if ends is None else ends, dtype=new.dtype, device=new.device))
    is_real = is_end.cumsum(1) - is_end.long() == 0
    return ((per_token * is_real).sum(1) / is_real.sum(1)).tolist()


def print_captions(paths: Sequence[str | Path], *, json_lines: bool = False, **options) -> bool:
    """Print a line per picture, "file name<TAB>caption" or JSON with path, caption and score, as the captions come.

    What a terminal would obey in a name or a caption (escapes, line ends, changes of direction) is escaped. A file
    that holds no picture is reported on stderr, and the others are captioned all the same.

    Args:
        options: of `caption`.

    Returns: whether every file was a picture.
    """
    bad = []

    def report(error: MediaDecodeError) -> None:
        bad.append(error)
        tqdm.write(f"mm: {printable(error, sys.stderr)}", file=sys.stderr)

    pictures = list_pictures(paths)
    with without_other_bars():
        captions = caption(pictures, with_scores=json_lines, on_bad_picture=report, **options)
        for found in tqdm(captions, total=len(pictures), unit=" pictures", disable=None):  # None: only on a terminal
            plain = f"{printable(found.path.name)}\t{printable(found.caption)}"
            tqdm.write(json_line(_fields(found)) if json_lines else plain, file=sys.stdout)
    return not bad


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


def _fields(found: Caption) -> dict[str, str | float | None]:
    return {"path": str(found.path), "caption": found.caption, "score": found.score}
