"""`mm transcribe`: sounds in, text with times out as it comes: txt, srt, vtt or json, or Parquet by actors of Ray."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForSpeechSeq2Seq

from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..processing.images.limits import MediaDecodeError
from ..processing.reading import sounds_ahead
from .caption import without_other_bars
from .long_work import Faults, Results, check_settings, note_of, processes, settings_kept
from .media_lists import told_media
from .models import load_model
from .on_ray import check_engine, shards_of
from .printing import json_line, printable
from .transcribe import FALLBACK, Segment, transcribe_all

FORMATS = ("txt", "srt", "vtt", "json")
HEAD = "WEBVTT\n\n"
JOURNAL = ".transcribe.jsonl"
Found = tuple[int, Segment | MediaDecodeError | None]  # as `transcribe_all` tells


class Transcriber:
    """A model that transcribes files, list after list.

    Args:
        words, batch_size: of `transcribe_all`. workers: of `sounds_ahead`. fallback: with the settings of FALLBACK.
        prompt: words to expect.
        settings: of generate(); those that are None are left out.

    Raises: ValueError for a model that does not transcribe, and a prompt that is no plain text or too long.
    """

    def __init__(
        self, model: str | None, *, words: bool = False, fallback: bool = False, prompt: str = "", batch_size: int = 1,
        workers: int | None = None, device: str | None = None, dtype: str | None = None, **settings: Any,
    ):  # fmt: skip
        if fallback and batch_size > 1:
            raise ValueError(f"--fallback draws at random, file by file; --batch-size {batch_size} would mix them")
        with without_other_bars():
            self.model, self.processor = load_model(
                model, AutoModelForSpeechSeq2Seq, ("feature_extractor", "tokenizer"), device=device, dtype=dtype
            )
        self.workers = workers
        self.settings = {name: value for name, value in settings.items() if value is not None}
        self.settings |= {"words": words, "batch_size": batch_size, **(FALLBACK if fallback else {})}
        if prompt:
            self.settings["prompt_ids"] = _prompt_ids(prompt, self.model, self.processor)

    def __call__(self, files: Sequence[Path]) -> Iterator[Found]:
        """Segments of all files, as `transcribe_all`."""
        return transcribe_all(self._streams(files), self.model, self.processor, **self.settings)

    def _streams(self, files: Sequence[Path]) -> Iterator[Iterable[np.ndarray]]:
        for samples in sounds_ahead(files, self.processor.feature_extractor.sampling_rate, self.workers):
            torch.manual_seed(0)  # of the temperatures of FALLBACK: a file has one transcript
            yield samples


def print_transcripts(
    paths: Sequence[str | Path], model: str | None, *, form: str = "txt", output: Path | None = None,
    resume: bool = False, recursive: bool = False, engine: str = "local", actors: int | None = None, **options: Any,
) -> bool:  # fmt: skip
    """Writes what is said in files, a line or cue at a time: to stdout, or into a file of each under `output`.

    Args:
        paths, recursive: as `told_media`.
        resume: leave out what has a file under `output` already. A run that was ended keeps its settings in `JOURNAL`
            there, and goes on only with the same.
        engine, actors: "ray" writes Parquet into `output` (see `shards_of`).
        options: of `Transcriber`.

    Returns: whether every file was a sound; those that were none are listed on stderr at the end.
    Raises: ValueError for options that do not go together, and a model that does not transcribe; FileNotFoundError.
    """
    if form not in FORMATS:
        raise ValueError(f"--format {form} is not known; accepted: {', '.join(FORMATS)}")
    files = list(dict.fromkeys(told_media(paths, ("audio",), recursive)))
    if check_engine(engine, actors=actors):
        if form in ("srt", "vtt"):
            raise ValueError(f"--engine ray writes Parquet, not {form}; leave --format out")
        options |= {"workers": options.get("workers") or 0}  # actors read side by side
        return shards_of(files, "transcribe", transcript_rows, {"model": model, **options}, output, resume, actors)
    if options.get("words") and form != "json":
        raise ValueError("--words are written by --format json only")
    if resume and output is None:
        raise ValueError("--resume goes on with the folder of --output; give one")
    if output is None and len(files) > 1 and form in ("srt", "vtt"):
        raise ValueError(f"{len(files)} files make {len(files)} files of --format {form}; give --output DIR")
    doubled = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
    if output is not None and doubled:
        raise ValueError(f"several files would be written as {doubled[0]}.{form}; transcribe them apart")
    rank, size = processes()
    if output is None and size > 1:
        raise ValueError(f"{size} processes write into --output; give one")
    files = files[rank::size]
    if output is not None and not resume:
        for name in (f"{path.stem}.{form}" for path in files):
            if (output / name).exists():
                raise ValueError(f"--output {output} holds {name} already; --resume goes on with it")
    transcriber = Transcriber(model, **options)
    settings = {"command": "transcribe", "model": model, "form": form, **options}
    results = Faults(len(files)) if output is None else _journal(output, settings, resume, form, files)
    todo = [path for path in files if not isinstance(results, Results) or str(path) not in results.done]
    written, complete = _write_all(todo, transcriber(todo), form, output), False
    try:
        for path, fault in tqdm(written, total=len(todo), unit=" files", disable=None if output else True):
            if fault is not None:
                results.fail(str(path), fault)
            elif isinstance(results, Results):
                results.write(str(path))
        complete = True
    finally:
        results.close(complete)
        if complete and isinstance(results, Results):
            results.path.unlink()
    return results.all_read


def transcript_rows(**options: Any) -> Callable[[list[str]], list[dict[str, Any]]]:
    """What makes rows of files for `run_on_ray`; options: of `Transcriber`."""
    transcriber = Transcriber(**options)

    def rows(names: list[str]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = [{"path": name, "segments": []} for name in names]
        for number, found in transcriber([Path(name) for name in names]):
            if isinstance(found, Segment):
                made[number]["segments"].append(_told(found))
            elif found is not None:
                made[number]["error"] = str(found)
        return made

    return rows


def _write_all(
    files: Sequence[Path], found: Iterator[Found], form: str, output: Path | None
) -> Iterator[tuple[Path, str | None]]:
    """Writes the transcripts of all files, and tells each that is done with its fault."""
    open_: dict[int, _Transcript] = {}
    try:
        for number, one in _in_order(found) if output is None else found:
            path = files[number]
            if number not in open_:
                open_[number] = _Transcript(path, form, output)
            if isinstance(one, Segment):
                open_[number].write(one)
                continue
            open_.pop(number).end(one)
            yield path, None if one is None else str(one)
    finally:
        for one in open_.values():
            one.drop()


def _in_order(found: Iterator[Found]) -> Iterator[Found]:
    """What is told of the first file that has not ended at once, of the others when it is their turn."""
    turn, held = 0, {}
    for number, one in found:
        held.setdefault(number, []).append(one)
        while held.get(turn):
            one = held[turn].pop(0)
            yield turn, one
            turn += not isinstance(one, Segment)


def _journal(output: Path, settings: dict[str, Any], resume: bool, form: str, files: Sequence[Path]) -> Results:
    """What a run has done, in a hidden file that goes when all of it is done; what it was done with stays there."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; give a folder")
    rank, size = processes()
    path = output / (JOURNAL if size == 1 else f"{JOURNAL}.{rank}-of-{size}")
    was_ended = path.exists()
    if was_ended and not resume:
        path.unlink()
        was_ended = False
    if resume and not was_ended:
        check_settings(note_of(path), settings_kept(settings), str(output))
    journal = Results(path, settings, resume)
    if resume and not was_ended:  # files that are new since are heard
        journal.done |= {str(one) for one in files if (output / f"{one.stem}.{form}").exists()}
    return journal


def _prompt_ids(prompt: str, model: MMForSpeechSeq2Seq, processor: Any) -> torch.Tensor:
    ids, tokenizer = processor.get_prompt_ids(prompt, return_tensors="pt"), processor.tokenizer
    if special := sorted({*ids.tolist()[1:]} & {*tokenizer.all_special_ids}):
        raise ValueError(f"--prompt holds {tokenizer.decode(special)}, which is no word; give plain text")
    most = model.config.text_config.max_position_embeddings // 2 - 1
    if len(ids) > most:
        raise ValueError(f"--prompt is {len(ids)} tokens long; at most {most} fit before the text")
    return ids.to(model.device)


class _Transcript:
    """What is said in one file: on stdout, or in a file that stands in its place when all of it is written, or all
    before a fault of the sound. An earlier file stays where nothing comes of it."""

    def __init__(self, path: Path, form: str, output: Path | None):
        self.path, self.form, self.count = path, form, 0
        self.place = self.aside = None
        self.stream = sys.stdout
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            self.place = output / f"{path.stem}.{form}"
            self.aside = self.place.with_name(f".{self.place.name}.writing")
            self.stream = self.aside.open("w", encoding="utf-8")
        if form == "vtt":
            self.stream.write(HEAD)

    def write(self, one: Segment) -> None:
        self.count += 1
        text = printable(one.text, self.stream)
        if self.form == "json":
            text = json_line({"path": str(self.path), **_told(one)}, self.stream)
        elif self.form in ("srt", "vtt"):
            mark = "," if self.form == "srt" else "."
            cue = f"{clock(one.start, mark)} --> {clock(one.end, mark)}\n{text.replace('-->', '->')}\n"
            text = f"{self.count}\n{cue}" if self.form == "srt" else cue
        self.stream.write(text + "\n")
        self.stream.flush()

    def end(self, fault: MediaDecodeError | None) -> None:
        if self.aside is not None and self.place is not None:
            self.stream.close()
            if fault is None or self.count:
                os.replace(self.aside, self.place)
            self.aside.unlink(missing_ok=True)

    def drop(self) -> None:
        if self.aside is not None:
            self.stream.close()
            self.aside.unlink(missing_ok=True)


def _told(one: Segment) -> dict[str, Any]:
    told: dict[str, Any] = {"start": round(one.start, 3), "end": round(one.end, 3), "text": one.text}
    if one.words is not None:
        told["words"] = [
            {"word": word, "start": round(start, 3), "end": round(end, 3)} for word, start, end in one.words
        ]
    return told


def clock(seconds: float, mark: str) -> str:
    """ "00:01:02,345": hours may have more digits."""
    thousandths = round(seconds * 1000)
    minutes, thousandths = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{thousandths // 1000:02}{mark}{thousandths % 1000:03}"
