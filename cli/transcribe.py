"""`mm transcribe`: sounds in, text with times out as it comes, of files of any length in constant memory.

file ── stretches ── a window at its place ── generate() ── segments ──► txt, srt, vtt or json
                          ▲                                    │
                          └── the end of its last segment ◄────┘
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch
from transformers import AutoModelForSpeechSeq2Seq

from ..modeling_mm.tasks.speech import MMForSpeechSeq2Seq
from ..processing.images.limits import MediaDecodeError
from ..processing.sounds.stream import stream_sound
from .caption import without_other_bars
from .long_work import Results, processes
from .media_lists import list_media
from .models import load_model
from .printing import json_line, printable

FORMATS = ("txt", "srt", "vtt", "json")
HEAD = "WEBVTT\n\n"
JOURNAL = ".transcribe.jsonl"
# What openai/whisper does where a window comes out as loops, as unlikely text, or as silence.
FALLBACK = {
    "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
}


# A model without times hears this much at once, cut where it is quiet.
WINDOW_SECONDS = 20


class Segment(NamedTuple):
    """A stretch of speech: seconds from the start of the file. words: (text, start, end) of each, if asked for."""

    start: float
    end: float
    text: str
    words: list[tuple[str, float, float]] | None = None


# ---- one sound -----------------------------------------------------------------------------------------------------


def transcribe(
    samples: Iterable[np.ndarray], model: MMForSpeechSeq2Seq, processor: Any, *, language: str | None = None,
    words: bool = False, **settings: Any,
) -> Iterator[Segment]:  # fmt: skip
    """Segments of one sound, window after window: each begins where the last whole segment ended. Of a model that
    is no Whisper a segment is a window of up to WINDOW_SECONDS, cut where it is quiet.

    Args:
        samples: stretches of float32 (n,) at the rate of the feature extractor (`stream_sound`); two windows of them
            are held at most, and what one stretch has beyond.
        language: None: that of the first window, which stays.
        words: fill in `Segment.words`; only a Whisper tells them.
        settings: of generate(), such as task, num_beams, prompt_ids and those of FALLBACK.

    Raises: what `samples` raises, after the segments of all that came before.
    """
    if not model.has_rules:
        yield from _by_windows(samples, model, processor, words, language, settings)
        return
    extractor = processor.feature_extractor
    rate, window, place = extractor.sampling_rate, extractor.n_samples, 0
    moment = window / rate / model.config.max_source_positions
    for piece, take in _windows(samples, window):
        features = extractor(piece, sampling_rate=rate, return_tensors="pt", return_attention_mask=True)
        heard = {name: features[name].to(model.device) for name in ("input_features", "attention_mask")}
        heard["input_features"] = heard["input_features"].to(model.dtype)
        if language is None and getattr(model.generation_config, "lang_to_id", None):
            language = model.detect_language(heard["input_features"])[0]
        told = {"language": language} if language is not None else {}
        written = model.generate(
            **heard, **told, **settings, return_timestamps=True, return_segments=True, return_token_timestamps=words,
            force_unique_generate_call=True,
        )  # fmt: skip
        found = written["segments"][0]
        seconds = _seconds_read(found, model.generation_config, len(piece) / rate)
        for segment in found:
            made = _segment(segment, processor.tokenizer, place / rate, len(piece) / rate, words, moment)
            if made.text:
                yield made
        taken = min(round(seconds * rate), len(piece)) or len(piece)
        take(taken)
        place += taken


def _by_windows(
    samples: Iterable[np.ndarray], model: MMForSpeechSeq2Seq, processor: Any, words: bool, language: str | None,
    settings: dict[str, Any],
) -> Iterator[Segment]:  # fmt: skip
    """A segment of each window, of a model that writes no times."""
    if words:
        raise ValueError("times of words are a Whisper's; this model writes none")
    rate, place = processor.feature_extractor.sampling_rate, 0
    for piece, take in _windows(samples, WINDOW_SECONDS * rate):
        taken = _quiet_place(piece, rate) if len(piece) == WINDOW_SECONDS * rate else len(piece)
        heard = processor(audio=[[piece[:taken]]], sampling_rate=rate, return_tensors="pt").to(model.device)
        heard["input_features"] = heard["input_features"].to(model.dtype)
        written = model.generate(**heard, language=language, **settings)
        text = " ".join(processor.batch_decode(written, skip_special_tokens=True)[0].split())
        if text:
            yield Segment(place / rate, (place + taken) / rate, text)
        take(taken)
        place += taken


def _quiet_place(piece: np.ndarray, rate: int) -> int:
    """Where a window is cut: in the middle of the quietest tenth of a second of its last quarter."""
    step, start = rate // 10, len(piece) * 3 // 4
    blocks = piece[start : start + (len(piece) - start) // step * step].reshape(-1, step)
    return start + int((blocks**2).sum(1).argmin()) * step + step // 2


def _windows(samples: Iterable[np.ndarray], window: int) -> Iterator[tuple[np.ndarray, Callable[[int], None]]]:
    """(up to `window` samples, take): the next begins after as many as take() was called with. A fault of the file is
    raised after what could be read before it."""
    source, held, fault = iter(samples), np.zeros(0, np.float32), None
    taken: list[int] = []
    while True:
        parts, length = [held], len(held)
        while length < window and source is not None:
            try:
                parts.append(next(source))
                length += len(parts[-1])
            except StopIteration:
                source = None
            except MediaDecodeError as error:
                source, fault = None, error
        held = np.concatenate(parts)
        if not len(held):
            break
        yield held[:window], taken.append
        held = held[taken.pop() :]
    if fault is not None:
        raise fault


def _seconds_read(segments: list[dict[str, Any]], decoding: Any, whole: float) -> float:
    """How far into a window its segments go: to the end of the last whole one, or to its own end where the text ends
    with one time, or has no two together (so do Whisper's rules)."""
    if not segments:
        return whole
    result = segments[-1]["result"]
    ids = result["sequences"] if isinstance(result, dict) else result
    ids = ids[segments[0]["idxs"][0] :]
    begin = decoding.no_timestamps_token_id + 1
    is_time = (ids[ids != decoding.eos_token_id] >= begin).tolist()
    pairs = any(one and two for one, two in zip(is_time, is_time[1:], strict=False))
    if not pairs or is_time[-2:] == [False, True]:
        return whole
    return float(segments[-1]["end"])


def _segment(found: dict, tokenizer: Any, offset: float, longest: float, words: bool, moment: float) -> Segment:
    """A segment of generate() as text, at its place in the file."""
    start, end = (min(max(float(found[name]), 0.0), longest) for name in ("start", "end"))
    text = " ".join(tokenizer.decode(found["tokens"], skip_special_tokens=True).split())
    if start >= longest:  # heard in the silence that fills a window up
        text = ""
    spoken = None
    if words:
        output = {"tokens": found["tokens"][None], "token_timestamps": found["token_timestamps"][None]}
        _, more = tokenizer._decode_asr(
            [output], return_timestamps="word", return_language=None, time_precision=moment
        )
        spoken = [
            (word["text"].strip(), offset + word["timestamp"][0], offset + word["timestamp"][1])
            for word in more["chunks"]
            if word["text"].strip()
        ]
    return Segment(offset + start, offset + max(end, start + moment), text, spoken)  # a cue has some length


# ---- what is printed -----------------------------------------------------------------------------------------------


def print_transcripts(
    paths: Sequence[str | Path], model: str | None, *, form: str = "txt", output: Path | None = None,
    words: bool = False, fallback: bool = False, prompt: str = "", resume: bool = False, recursive: bool = False,
    device: str | None = None, dtype: str | None = None, **settings: Any,
) -> bool:  # fmt: skip
    """Writes what is said in files, a line or cue at a time: to stdout, or into a file of each under `output`.

    Args:
        paths, recursive: as `list_media`.
        resume: leave out what has a file under `output` already. A run that was ended keeps its settings in `JOURNAL`
            there, and goes on only with the same.

    Returns: whether every file was a sound; a fault of one is told on stderr, and the others are transcribed.
    Raises: ValueError for options that do not go together, and a model that does not transcribe; FileNotFoundError.
    """
    if form not in FORMATS:
        raise ValueError(f"--format {form} is not known; accepted: {', '.join(FORMATS)}")
    if words and form != "json":
        raise ValueError("--words are written by --format json only")
    if resume and output is None:
        raise ValueError("--resume goes on with the folder of --output; give one")
    files = list(dict.fromkeys(list_media(paths, ("audio",), recursive)))
    if output is None and len(files) > 1 and form in ("srt", "vtt"):
        raise ValueError(f"{len(files)} files make {len(files)} files of --format {form}; give --output DIR")
    doubled = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
    if output is not None and doubled:
        raise ValueError(f"several files would be written as {doubled[0]}.{form}; transcribe them apart")
    rank, size = processes()
    if output is None and size > 1:
        raise ValueError(f"{size} processes write into --output; give one")
    files = files[rank::size]
    with without_other_bars():
        loaded, processor = load_model(
            model, AutoModelForSpeechSeq2Seq, ("feature_extractor", "tokenizer"), device=device, dtype=dtype
        )
    options = {name: value for name, value in settings.items() if value is not None} | (FALLBACK if fallback else {})
    if prompt:
        options["prompt_ids"] = _prompt_ids(prompt, loaded, processor)
    asked = {"model": model, "form": form, "words": words, "prompt": prompt, "fallback": fallback, "dtype": dtype}
    journal = None if output is None else _journal(output, {**asked, **settings}, resume, form, files)
    rate, faults, complete = processor.feature_extractor.sampling_rate, [], False
    try:
        for path in files if journal is None else [path for path in files if str(path) not in journal.done]:
            fault = _transcript(path, output, form, loaded, processor, words, rate, options)
            faults += [path] if fault else []
            if journal is not None:
                journal.write(str(path), **({"error": fault} if fault else {}))
        complete = True
    finally:
        if journal is not None:
            journal.close(complete)
            if complete:
                journal.path.unlink()
    for path, reason in () if journal is None else journal.faults:  # of the run that this one went on with
        sys.stderr.write(f"mm: {printable(path, sys.stderr)}: {printable(reason, sys.stderr)}\n")
    return size > 1 or (not faults and not (journal is not None and journal.faults))  # see `tell_faults`


def _transcript(
    path: Path, output: Path | None, form: str, model: MMForSpeechSeq2Seq, processor: Any, words: bool, rate: int,
    options: dict[str, Any],
) -> str | None:  # fmt: skip
    """One file. Returns its fault, which is told on stderr."""
    torch.manual_seed(0)  # of the temperatures of FALLBACK: a file has one transcript
    segments = transcribe(stream_sound(path, rate), model, processor, words=words, **options)
    try:
        with _opened(None if output is None else output / f"{path.stem}.{form}") as stream:
            _write(segments, path, form, stream)
    except MediaDecodeError as error:
        sys.stderr.write(f"mm: {printable(error, sys.stderr)}\n")
        return str(error)
    return None


def _journal(output: Path, settings: dict[str, Any], resume: bool, form: str, files: Sequence[Path]) -> Results:
    """What a run has done, in a hidden file that goes when all of it is done."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; give a folder")
    rank, size = processes()
    path = output / (JOURNAL if size == 1 else f"{JOURNAL}.{rank}-of-{size}")
    was_ended = path.exists()
    if was_ended and not resume:
        path.unlink()
        was_ended = False
    journal = Results(path, {"command": "transcribe", **settings}, resume)
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


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    """stdout, or a file that stands in its place when all of it is written, or all before a fault of the sound. An
    earlier file stays where nothing comes of it."""
    if path is None:
        yield sys.stdout
        return
    if path.parent.exists() and not path.parent.is_dir():
        raise ValueError(f"--output {path.parent} is a file; give a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.writing")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            try:
                yield stream
            except MediaDecodeError:
                stream.flush()
                if aside.stat().st_size > len(HEAD):
                    os.replace(aside, path)
                raise
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _write(segments: Iterator[Segment], path: Path, form: str, stream: TextIO) -> None:
    if form == "vtt":
        stream.write(HEAD)
    for number, one in enumerate(segments, 1):
        text = printable(one.text, stream)
        if form == "json":
            told = {"path": str(path), "start": round(one.start, 3), "end": round(one.end, 3), "text": one.text}
            if one.words is not None:
                told["words"] = [
                    {"word": word, "start": round(start, 3), "end": round(end, 3)} for word, start, end in one.words
                ]
            text = json_line(told, stream)
        elif form in ("srt", "vtt"):
            mark = "," if form == "srt" else "."
            cue = f"{clock(one.start, mark)} --> {clock(one.end, mark)}\n{text.replace('-->', '->')}\n"
            text = f"{number}\n{cue}" if form == "srt" else cue
        stream.write(text + "\n")
        stream.flush()


def clock(seconds: float, mark: str) -> str:
    """ "00:01:02,345": hours may have more digits."""
    thousandths = round(seconds * 1000)
    minutes, thousandths = divmod(thousandths, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{thousandths // 1000:02}{mark}{thousandths % 1000:03}"
